/* A test double of the NVIDIA driver's library `libcuda.so.1`: no GPU is behind it, and no kernel runs.

   It stands under the real cuda-bindings, the real cuda.core and the real MPS programs, which load it as they would load the
   driver. One GPU with sets of SM numbers; it refuses what the documentation of the driver says is refused. The settings are
   environment variables:

     STUB_SMS        SMs of the GPU (132)
     STUB_GRAIN      SMs of a group with co-scheduling (8); without it 2
     STUB_VERSION    what cuDriverGetVersion says (13000)
     STUB_NO_DEVICE  cuInit answers 100
     STUB_FAILS      the name of a call that answers 2 (out of memory), but not to who counts groups only
     STUB_SPLITS     "chain": no context of several groups, but what a division left over may be divided again
     STUB_TABLES     "hang": cuGetExportTable does not return, as a server of MPS that never becomes ready; else it answers 34
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SM_WORDS 8
typedef struct { unsigned int type; unsigned char padding[92]; unsigned int count, least, alignment, flags;
                 unsigned int split; unsigned int set[5]; unsigned char rest[8]; } Resource; /* 144 bytes, as in cuda.h */
_Static_assert(sizeof(Resource) == 144, "CUdevResource");
typedef struct { unsigned int words[5]; } Set;
typedef struct { int kind; Set sms; unsigned int count; void *of; int streams; } Thing; /* kinds: 1 green, 2 stream, 3 desc, 4 primary, 5 module */

static Thing primary = {4, {{0}}, 0, 0, 0};
static __thread void *stack[64];
static __thread int depth;
static unsigned int splits;
static int retained, greens;

static int number(const char *name, int otherwise) { const char *is = getenv(name); return is && *is ? atoi(is) : otherwise; }
static int chains(void) { const char *is = getenv("STUB_SPLITS"); return is && !strcmp(is, "chain"); }
static int fails(const char *call) { const char *is = getenv("STUB_FAILS"); return is && !strcmp(is, call); }
#define CALL if (fails(__func__)) return 2
static Set range(int from, int to) { Set set = {{0}}; for (int i = from; i < to; i++) set.words[i / 32] |= 1u << (i % 32); return set; }
static int sms(void) { return number("STUB_SMS", 132); }
static int grain(unsigned int flags) { return flags & 1 ? 2 : number("STUB_GRAIN", 8); }
static void fill(Resource *r, Set set, unsigned int count, unsigned int split, int step) {
  memset(r, 0, sizeof *r); r->type = 1; r->count = count; r->split = split; r->least = r->alignment = step; memcpy(r->set, set.words, sizeof r->set); }

int cuInit(unsigned int flags) { return getenv("STUB_NO_DEVICE") ? 100 : flags ? 1 : 0; }
int cuDriverGetVersion(int *v) { CALL; *v = number("STUB_VERSION", 13000); return 0; }
int cuDeviceGetCount(int *n) { CALL; *n = 1; return 0; }
int cuDeviceGet(int *d, int index) { CALL; if (index) return 101; *d = 0; return 0; }
int cuDeviceGetName(char *name, int size, int d) { snprintf(name, size, "stub of an H200"); return 0; }
int cuDeviceGetUuid_v2(unsigned char *u, int d) { for (int i = 0; i < 16; i++) u[i] = i; return 0; }
int cuDeviceGetUuid(unsigned char *u, int d) { return cuDeviceGetUuid_v2(u, d); }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = (size_t)141 << 30; return 0; }
int cuDeviceGetAttribute(int *v, int which, int d) { CALL; *v = which == 16 ? sms() : which == 75 ? 9 : which == 10 ? 32 : 0; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { CALL; retained++; *c = &primary; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { CALL; if (!retained) return 201; retained--; return 0; }
int cuDevicePrimaryCtxGetState(int d, unsigned int *flags, int *active) { *flags = 0; *active = retained > 0; return 0; }
int cuGetErrorName(int e, const char **s) { *s = e == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : e == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_INVALID_VALUE"; return 0; }
int cuGetErrorString(int e, const char **s) { *s = e == 100 ? "no CUDA-capable device is detected" : "refused by the stub"; return 0; }

int cuDeviceGetDevResource(int d, Resource *r, int type) { CALL; if (type != 1) return 914; fill(r, range(0, sms()), sms(), 0, grain(0)); return 0; }
int cuCtxGetDevResource(void *c, Resource *r, int type) {
  Thing *t = c; if (!t || type != 1) return 914;
  if (t->kind == 4) return cuDeviceGetDevResource(0, r, type);
  fill(r, t->sms, t->count, 0, grain(0)); return 0; }
int cuGreenCtxGetDevResource(void *c, Resource *r, int type) { CALL; return cuCtxGetDevResource(c, r, type); }

static Set take(Set *from, int count) {
  Set got = {{0}};
  for (int i = 0; i < 160 && count; i++) if (from->words[i / 32] >> (i % 32) & 1) {
    got.words[i / 32] |= 1u << (i % 32); from->words[i / 32] &= ~(1u << (i % 32)); count--; }
  return got; }
int cuDevSmResourceSplitByCount(Resource *result, unsigned int *groups, const Resource *in, Resource *rest, unsigned int flags, unsigned int least) {
  if (rest) CALL;
  if (!groups || in->type != 1) return 914;
  if (in->split && !chains()) return 915;              /* "the output results cannot be split again" */
  if (least > in->count) return 1;
  int step = grain(flags), size = ((least ? least : 1) + step - 1) / step * step, most = in->count / size;
  if (!result) { *groups = most; return 0; }
  if (*groups > (unsigned)most) *groups = most;
  if (!*groups) return 915;
  Set left; memcpy(left.words, in->set, sizeof left.words);
  unsigned int split = ++splits;
  for (unsigned int i = 0; i < *groups; i++) fill(&result[i], take(&left, size), size, split, step);
  if (rest) fill(rest, left, in->count - *groups * size, split, step);
  return 0; }
typedef struct { unsigned int count, coscheduled, preferred, flags, reserved[12]; } Wanted;
int cuDevSmResourceSplit(Resource *result, unsigned int groups, const Resource *in, Resource *rest, unsigned int flags, Wanted *wanted) {
  CALL; if (number("STUB_VERSION", 13000) < 13010) return 801;
  Set left; memcpy(left.words, in->set, sizeof left.words);
  unsigned int used = 0, split = ++splits;
  for (unsigned int i = 0; i < groups; i++) {
    int step = wanted[i].coscheduled ? wanted[i].coscheduled : grain(0);
    if (!wanted[i].count || wanted[i].count % step || used + wanted[i].count > in->count) return 915;
    used += wanted[i].count;
    Set got = take(&left, wanted[i].count);
    if (result) fill(&result[i], got, wanted[i].count, split, step); }
  if (rest) fill(rest, left, in->count - used, split, grain(0));
  return 0; }
int cuDevResourceGenerateDesc(void **desc, Resource *r, unsigned int n) {
  CALL; if (!n) return 1;
  Thing *t = calloc(1, sizeof *t); t->kind = 3;
  for (unsigned int i = 0; i < n; i++) {
    if (r[i].type != 1) return 914;
    if (n > 1 && (chains() || r[i].split != r[0].split || !r[i].split)) return 915; /* "outputs from the same split API instance" */
    for (int w = 0; w < 5; w++) t->sms.words[w] |= r[i].set[w];
    t->count += r[i].count; }
  *desc = t; return 0; }
int cuGreenCtxCreate(void **c, void *desc, int d, unsigned int flags) {
  CALL; Thing *from = desc; if (flags != 1) return 1; /* only CU_GREEN_CTX_DEFAULT_STREAM */
  Thing *t = calloc(1, sizeof *t); *t = *from; t->kind = 1; greens++; *c = t; return 0; }
int cuGreenCtxDestroy(void *c) { CALL; Thing *t = c; if (t->kind != 1 || t->streams) return 201; t->kind = 0; greens--; return 0; }
int cuGreenCtxStreamCreate(void **s, void *c, unsigned int flags, int priority) {
  CALL; Thing *g = c; if (flags != 1 || g->kind != 1) return 1; /* only CU_STREAM_NON_BLOCKING */
  Thing *t = calloc(1, sizeof *t); t->kind = 2; t->of = g; g->streams++; *s = t; return 0; }
int cuStreamGetGreenCtx(void *s, void **c) { Thing *t = s; *c = t && t->kind == 2 ? t->of : 0; return 0; }
int cuStreamGetCtx_v2(void *s, void **c, void **g) { Thing *t = s; *g = t ? t->of : 0; *c = t ? t->of : 0; return 0; }
int cuStreamGetCtx(void *s, void **c) { Thing *t = s; *c = t ? t->of : 0; return 0; }
int cuStreamGetFlags(void *s, unsigned int *flags) { *flags = 1; return 0; }
int cuStreamGetPriority(void *s, int *p) { *p = 0; return 0; }
int cuStreamGetDevice(void *s, int *d) { *d = 0; return 0; }
int cuCtxFromGreenCtx(void **c, void *g) { CALL; Thing *t = g; if (t->kind != 1) return 201; *c = g; return 0; }
int cuCtxPushCurrent_v2(void *c) { CALL; stack[depth++] = c; return 0; }
int cuCtxPopCurrent_v2(void **c) { CALL; if (!depth) return 201; void *was = stack[--depth]; if (c) *c = was; return 0; }
int cuCtxSetCurrent(void *c) { if (depth) stack[depth - 1] = c; else stack[depth++] = c; return 0; }
int cuCtxGetCurrent(void **c) { *c = depth ? stack[depth - 1] : 0; return 0; }
int cuCtxGetDevice(int *d) { if (!depth) return 201; *d = 0; return 0; }
int cuCtxGetDevice_v2(int *d, void *c) { *d = 0; return 0; }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cuStreamSynchronize(void *s) { CALL; return depth ? 0 : 201; }
int cuStreamDestroy_v2(void *s) { CALL; Thing *t = s; if (t->kind != 2) return 400; ((Thing *)t->of)->streams--; t->kind = 0; return 0; }
int cuModuleLoadData(void **m, const void *image) { CALL; if (!depth) return 201; if (memcmp(image, "\177ELF", 4)) return 200; *m = calloc(1, sizeof(Thing)); return 0; }
int cuModuleGetFunction(void **f, void *m, const char *name) { CALL; if (strcmp(name, "where_am_i")) return 500; *f = m; return 0; }
int cuModuleUnload(void *m) { CALL; free(m); return 0; }
int cuMemAlloc_v2(void **p, size_t n) { CALL; if (!depth) return 201; *p = malloc(n); return 0; }
int cuMemFree_v2(void *p) { CALL; free(p); return 0; }
int cuMemcpyDtoH_v2(void *to, void *from, size_t n) { CALL; memcpy(to, from, n); return 0; }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *s, void **params, void **extra) {
  CALL; Thing *t = s; if (t->kind != 2 || !depth || stack[depth - 1] != t->of) return 400;
  unsigned int *seen = *(unsigned int **)params[0]; if (*(long long *)params[1] <= 0) return 1;
  int here[160], n = 0; Set set = ((Thing *)t->of)->sms;
  for (int i = 0; i < 160; i++) if (set.words[i / 32] >> (i % 32) & 1) here[n++] = i;
  for (unsigned i = 0; i < gx; i++) seen[i] = here[i % n];
  return 0; }
int cuGetExportTable(const void **table, const void *id) {
  const char *how = getenv("STUB_TABLES"); while (how && !strcmp(how, "hang")) pause();
  return 34; }
int stub_greens(void) { return greens; }
int stub_retained(void) { return retained; }

static int unknown(void) { return 801; }
int cuGetProcAddress_v2(const char *name, void **f, int version, unsigned long long flags, int *status) {
  char wanted[200]; *f = 0;
  for (int v = 4; v >= 0 && !*f; v--) { snprintf(wanted, sizeof wanted, v > 1 ? "%s_v%d" : "%s", name, v); *f = dlsym(RTLD_DEFAULT, wanted); }
  if (!*f) { Dl_info me; void *own = dladdr((void *)cuInit, &me) ? dlopen(me.dli_fname, RTLD_NOW | RTLD_NOLOAD) : 0;
    for (int v = 4; own && v >= 0 && !*f; v--) { snprintf(wanted, sizeof wanted, v > 1 ? "%s_v%d" : "%s", name, v); *f = dlsym(own, wanted); } }
  if (!*f) *f = (void *)unknown;
  if (status) *status = 0;
  return 0; }
int cuGetProcAddress(const char *name, void **f, int version, unsigned long long flags) { return cuGetProcAddress_v2(name, f, version, flags, 0); }
