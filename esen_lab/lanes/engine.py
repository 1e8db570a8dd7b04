"""What a lane does, without any process around it: holds sub-models, runs them, writes their outputs."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from esen_lab.common.tensors import same_bytes
from esen_lab.common.trees import Structure, Tree, call_with, flatten, select, spec_of_leaves, unflatten
from esen_lab.devices import Placement
from esen_lab.ensemble.as_it_was import AsItWas, reached_by
from esen_lab.ensemble.chance import DRAWING, drawn_since, generators_kept, seed_for, seed_generators, states
from esen_lab.ensemble.reach import Reach, other_code, reach_of
from esen_lab.ensemble.traits import Traits
from esen_lab.errors import UsageError
from esen_lab.lanes.arena import Block, Layout, TreeArena
from esen_lab.lanes.backends import begin, inside, writes
from esen_lab.lanes.known_looks import KnownLooks
from esen_lab.lanes.settings import SessionSettings, Settings, put
from esen_lab.lanes.timings import DREW, NAN, TIMING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from esen_lab.ensemble.batched import Batched
    from esen_lab.lanes.stream import GraphLane

Kept: TypeAlias = "tuple[list[torch.Tensor], Structure]"
"""Outputs that look different from the last ones: a flattened tree."""


Tell: TypeAlias = "Callable[[int, Timed | InSubModel, bool], None]"
"""Told which member is done, when it ran or what it raised, and whether the outputs lie in a new block from now on."""


# Lanes heed no SIGINT: whatever a member raises is its own, and no reason for them to end.
OF_MEMBERS = (BaseException,)

_MOST_MET = 1_000  # inputs of ever new looks must not fill the memory


class InSubModel(Exception):  # noqa: N818  wraps what the sub-model raised, and says which one it was
    """The code of a sub-model raised; the cause is its exception."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(slots=True, kw_only=True)
class Loaded:
    """A sub-model in this lane.

    Attributes:
        name: Its name.
        module: The network.
        example: Its example, on the CPU.
        active_units: How many units of the share it uses.
        overwrites_input: Whether it must be given a copy of its input.
        traits: How it must be called.
        payload: What builds it anew, where it keeps state between calls.
        registered: What calls of it can change, as it was registered; None before that is asked for.
        reach: What its code reaches; None before that is asked for.
        drew: Whether it was seen to draw random numbers, which its example did not show.
    """

    name: str
    module: nn.Module
    example: Tree
    active_units: int
    overwrites_input: bool
    traits: Traits = field(default_factory=Traits)
    payload: bytes = b""
    registered: AsItWas | None = None
    reach: Reach | None = None
    drew: bool = False

    def now(self) -> AsItWas:
        """What calls of it can change, as it is now."""
        module = inside(self.module)
        if self.reach is None:
            self.reach = reached_by(module)  # once: it takes as long as all the rest
        return AsItWas(module, self.reach)

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keyword arguments it takes of a dict, or None."""
        return tuple(self.example) if isinstance(self.example, Mapping) else None


@dataclass(frozen=True, slots=True)
class PutAway:
    """A member as it was before what is measured now: the module, and what calls of it can change."""

    module: nn.Module
    state: AsItWas


@dataclass(slots=True)
class Timed:
    """When one member ran, whether NaN came out, and whether it draws random numbers that its example did not show."""

    start_ns: int
    end_ns: int
    nan: bool
    drew: bool = False

    @property
    def seen(self) -> int:
        """Both, as they are packed."""
        return NAN * self.nan | DREW * self.drew


class Engine:
    """One lane. Not safe for several threads: the worker's single loop owns it.

    Attributes:
        own_process: Whether nobody else draws random numbers in this process.
    """

    own_process = False

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self.number = 0  # of the run that is asked for
        self.seed: int | None = None  # of that run, where a member draws random numbers
        self._put_away: dict[str, PutAway] = {}
        self._loaded: dict[str, Loaded] = {}
        self._arrangement: tuple[Loaded, ...] = ()
        self._mode = "serial"
        self._input: Tree = None
        self._inputs: list[Tree] = []
        self._look: Hashable = None  # of the input
        self._met: set[tuple[Hashable, int]] = set()  # looks of inputs that members have run on, by number
        self._unmet: set[int] = set()  # members that have not run on one of this look
        self._arena = TreeArena()
        self.outputs = self._arena
        self._input_arena = TreeArena()
        self._known: KnownLooks[tuple[Layout, ...]] = KnownLooks()
        self._pool: ThreadPoolExecutor | None = None
        self._batched: Batched | None = None

    # --- setting up ----------------------------------------------------------------------------------------------

    def load(
        self, name: str, payload: memoryview, example: Tree, active_units: int, traits: Traits | None = None
    ) -> tuple[str, ...]:
        """Build a sub-model and run it once on a copy of its example, which also warms it up.

        Returns:
            Functions that are other code here than in the session, as "module:name".
        """
        import torch

        traits = traits or Traits()
        self._placement.knows(name)
        try:
            with self._loading():
                module = self._built(payload)
                registered = AsItWas(inside(module)) if traits.keeps_state else None
                self._placement.use(active_units)
                leaves, structure = flatten(example, "the example")
                copies = [self._copied(leaf) for leaf in leaves]
                versions = [leaf._version for leaf in copies]
                # Not inference_mode: elsewhere in-place changes count up a tensor's version.
                with torch.enable_grad() if traits.grad == "on" else torch.no_grad():
                    flatten(call_with(module, unflatten(structure, copies)), f"the output of {name!r}")
                if registered is not None:  # what was registered is what the first run meets
                    registered.put_back()
                    module = self._built(payload)
        except OF_MEMBERS as problem:
            raise InSubModel(name) from problem
        self._put_away.pop(name, None)
        self._loaded[name] = Loaded(
            name=name,
            module=module,
            example=example,
            active_units=active_units,
            # It would change the input under the hands of the other sub-models, or may keep it until the next one
            # lies there: such a one gets a copy per run.
            overwrites_input=traits.keeps_state or versions != [leaf._version for leaf in copies],
            traits=traits,
            payload=bytes(payload) if traits.keeps_state else b"",
            registered=registered,
        )
        if not traits.code:
            return ()
        return other_code(traits.code, reach_of(inside(module)).comparable)

    def _built(self, payload: memoryview | bytes) -> nn.Module:
        import cloudpickle

        return self._settle(cloudpickle.loads(payload)())

    def put_state(self, how: str) -> dict[str, tuple[str, ...]]:
        """Put back what calls have changed, also in members that did not look as if they kept state.

        Args:
            how: "fresh": as they were registered. "aside": the same, and what they are now is kept; "back": that again.

        Returns:
            For each member that was not known to keep state, and has changed: what, for people.
        """
        with self._loading():
            if how == "back":
                return self._found(self._back)
            if how == "aside":  # of all, before one is put back: members may share what their code reaches
                for member in self._loaded.values():
                    if member.name not in self._put_away:
                        self._put_away[member.name] = PutAway(member.module, member.now())
            return self._found(self._fresh)

    def _found(self, put: Callable[[Loaded], tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Put members back, those first that are built anew: of others, a part may be theirs too."""
        found = {}
        for member in sorted(self._loaded.values(), key=lambda member: not member.traits.keeps_state):
            try:
                changed = put(member)
            except Exception as problem:
                raise InSubModel(member.name) from problem
            if changed and not member.traits.keeps_state:
                member.overwrites_input = True  # it may keep that too
                found[member.name] = changed
        return found

    def _fresh(self, member: Loaded) -> tuple[str, ...]:
        if member.registered is not None:
            changed = member.registered.put_back()
            if member.traits.keeps_state:  # whole, with what cannot be set back; not what it shares with the process
                self._is_now(member, self._built(member.payload))
            return changed
        put_away = self._put_away.get(member.name)
        # Loading has left it as it was registered, and lanes are measured before they run.
        member.registered = member.now() if put_away is None else put_away.state
        return ()

    def _back(self, member: Loaded) -> tuple[str, ...]:
        put_away = self._put_away.pop(member.name, None)
        if put_away is None:
            return ()
        self._is_now(member, put_away.module)
        return put_away.state.put_back()

    @staticmethod
    def _is_now(member: Loaded, module: nn.Module) -> None:
        if module is not member.module:
            member.module = module
            if member.traits.keeps_state:
                member.reach = None  # built anew, it has functions of its own

    def take_settings(self, settings: Settings, *, whole_process: bool) -> None:
        """Have what the session has set, or only what holds for a thread where the process is not the lane's own."""
        put(settings, whole_process=whole_process)
        if self._mode == "threads":  # threads of members take over what the one that owns the engine has
            self.arrange([member.name for member in self._arrangement], self._mode)

    # What another place than the CPU does differently while a sub-model is loaded.

    def _settle(self, module: nn.Module) -> nn.Module:
        from esen_lab.ensemble.kinds.adapted import Adapter

        if isinstance(module, Adapter):
            module.enter_lane()
        return module

    def _copied(self, leaf: torch.Tensor) -> torch.Tensor:
        return leaf.clone()

    def _loading(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def unload(self, name: str) -> None:
        """Forget a sub-model."""
        self._loaded.pop(name, None)
        if any(member.name == name for member in self._arrangement):
            self._arrangement = ()

    def arrange(self, members: Sequence[str], mode: str) -> None:
        """Choose what `run` runs."""
        if self._placement.paced and mode != "serial":
            raise UsageError("Lanes of a simulated device run their sub-models one after another", given=f"mode {mode}")
        self._arrangement = tuple(self._get(name) for name in members)
        self._mode = mode
        self._met.clear()
        self._arena.close()
        self._arena = self.outputs = TreeArena()
        self._known.forget_outputs()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._batched = None
        if mode == "threads":
            settings = SessionSettings().now()  # of the thread that owns this engine
            self._pool = ThreadPoolExecutor(
                max_workers=len(members),
                thread_name_prefix="member",
                initializer=partial(put, settings, whole_process=False),
            )
        elif mode == "vmap":
            from esen_lab.ensemble.batched import Batched

            self._batched = Batched([member.module for member in self._arrangement])
        self._choose_inputs()

    def set_input(self, layout: Layout, block: Block | None) -> None:
        """Take the input of runs from `block` (or the same one as before)."""
        self._input_arena.adopt(block, (layout,))
        self._known.told(layout, self._arena.layouts or None, new_block=block is not None)
        self._read_input(layout)

    def look_again(self, number: int) -> None:
        """Take the input of runs where one of this look lay before, and write outputs where those of that look were."""
        layout, outputs = self._known.again(number, self._arena.layouts or None)
        self._input_arena.adopt(None, (layout,))
        if outputs is not None:
            self._arena.adopt(None, outputs)
        self._read_input(layout)

    def _read_input(self, layout: Layout) -> None:
        self._input = self._input_arena.read(0)
        self._look = layout.spec
        self._choose_inputs()

    def take_input(self, tree: Tree) -> None:
        """Take the input of the next run as it is, from a caller in this very process."""
        self._input = tree
        leaves, structure = flatten(tree)
        self._look = (structure, *((leaf.dtype, leaf.shape, leaf.stride()) for leaf in leaves))
        self._choose_inputs()

    def _choose_inputs(self) -> None:
        if self._input is not None:
            self._take_apart(self._input)

    def _take_apart(self, tree: Tree) -> None:
        """Find each member's part of the input, and who has not run on one of this look."""
        self._inputs = [select(tree, member.keys) for member in self._arrangement]
        if len(self._met) > _MOST_MET:
            self._met.clear()
        self._unmet = {index for index in range(len(self._inputs)) if (self._look, index) not in self._met}

    def _get(self, name: str) -> Loaded:
        if name not in self._loaded:
            raise UsageError("A lane runs sub-models that it has loaded", given=name)
        return self._loaded[name]

    # --- running -------------------------------------------------------------------------------------------------

    def run(self) -> tuple[bytes, bool, bool]:
        """Run the arrangement once on the current input.

        Returns:
            Packed timings (`TIMING` per member), whether the outputs' layouts changed, and whether their block is new.
        """
        if not self._inputs:
            raise UsageError("A lane is told its sub-models and its input before it runs", given="neither")
        kept: list[Kept | None] = [None] * len(self._arrangement)
        timed = self._run_all(kept)
        changed = any(outputs is not None for outputs in kept)
        grown = self._relay(kept) if changed else False
        if grown:
            self._known.forget_outputs()
        return b"".join(TIMING.pack(t.start_ns, t.end_ns, t.seen) for t in timed), changed, grown

    def run_stepwise(self, tell: Tell, stopped: Callable[[], bool]) -> None:
        """Run the arrangement once on the current input, and tell of each member as soon as its output is written.

        Whoever is told may read that output until the next run begins, also while this one goes on: outputs that look
        different from the last ones are laid out in memory of their own. A member that raises ends only itself.

        Args:
            tell: Called for each member, on this thread.
            stopped: Asked between members; when it says so, those that have not begun do not.
        """
        if not self._inputs:
            raise UsageError("A lane is told its sub-models and its input before it runs", given="neither")
        count = len(self._arrangement)
        alone = self._mode == "serial" and len(self._arena.layouts) == count
        self._begin_stepwise(alone=alone)
        for indices in [[index] for index in range(count)] if alone else [list(range(count))]:
            if stopped():
                return
            kept: list[Kept | None] = [None] * count
            try:
                timed = [self._run_alone(indices[0], kept)] if alone else self._run_all(kept)
            except InSubModel as problem:
                for index in indices:
                    tell(index, problem, False)
                continue
            changed = any(outputs is not None for outputs in kept)
            if changed:
                self._relay_apart(kept)
            for position, (index, at) in enumerate(zip(indices, timed, strict=True)):
                tell(index, at, changed and not position)  # all of them are laid out anew at once

    # What another place than the CPU does differently when members are run one by one.

    def _begin_stepwise(self, *, alone: bool) -> None:
        """A run begins whose members are run one by one (`alone`), or all at once."""

    def _run_alone(self, index: int, kept: list[Kept | None]) -> Timed:
        return self._run_member(index, kept)

    def _relay_apart(self, kept: list[Kept | None]) -> None:
        """Lay the outputs out anew in a block of their own: somebody may be reading in the old one."""
        before = self._arena
        self._arena = TreeArena()
        try:
            self._relay_from(before, kept)
        except BaseException:
            self._arena = before
            raise
        self._known.forget_outputs()
        self.outputs = self._arena  # at once: a reader in this process has the old one or the new one, whole

    def _run_all(self, kept: list[Kept | None]) -> list[Timed]:
        """Run every member, and write their outputs or put them into `kept`."""
        count = len(self._arrangement)
        if self._mode == "serial":
            return [self._run_member(index, kept) for index in range(count)]
        if self._mode == "threads":
            return self._run_in_threads(kept)
        return self._run_begun(kept) if self._mode == "async" else self._run_batched(kept)

    def _run_in_threads(self, kept: list[Kept | None]) -> list[Timed]:
        """Run every member in a thread; those of which it is looked whether they draw random numbers alone, and first.

        All are waited for, also where one has raised: one that is still at work would write into the next answer.
        """
        assert self._pool is not None
        futures: dict[int, Future[Timed]] = {}
        order = sorted(range(len(self._arrangement)), key=lambda index: not self._watches_chance(index))
        for index in order:
            alone = self._watches_chance(index)
            futures[index] = self._pool.submit(self._run_member, index, kept)
            if alone:
                wait_for([futures[index]])
        wait_for(futures.values())
        return [futures[index].result() for index in range(len(self._arrangement))]

    def _run_member(self, index: int, kept: list[Kept | None]) -> Timed:
        import torch

        member = self._arrangement[index]
        self._placement.use(member.active_units)
        start = time.perf_counter_ns()
        try:
            with torch.inference_mode() if member.traits.grad == "inference" else member.traits.called():
                given = self._given(index)
                leaves, structure = self._answer(index, given)
                nan = self._store(index, leaves, structure, kept)
                if index in self._unmet:
                    self._has_met(index, given)
        except OF_MEMBERS as problem:
            raise InSubModel(member.name) from problem
        if self._placement.paced:
            self._placement.pace(member.name, member.active_units, start)
        return Timed(start, time.perf_counter_ns(), nan, member.drew)

    def _answer(self, index: int, given: Tree) -> tuple[list[torch.Tensor], Structure]:
        """What a member answers, with the random numbers of this run where it draws some."""
        member = self._arrangement[index]
        chance = self._chance() if self._watches_chance(index) else None
        if (member.traits.random or member.drew) and self.seed is not None:
            output = self._drawn(member, given, self.seed)
        else:
            output = call_with(member.module, given)
        leaves, structure = flatten(output, f"the output of {member.name!r}")
        if member.traits.grad == "on":
            leaves = [leaf.detach() for leaf in leaves]
        if chance is not None:
            member.drew = drawn_since(chance, self._chance())
        return leaves, structure

    def _chance(self) -> tuple[Any, ...]:
        """Where the generators are that members may draw from."""
        return states()

    def _watches_chance(self, index: int) -> bool:
        """Whether it is looked whether a member draws random numbers: on the first input of a look, which is enough.

        Not of one that an engine executes: what prepares it may draw some, and a network that does is left to eager.
        """
        if index not in self._unmet or not self.own_process:
            return False
        member = self._arrangement[index]
        return not (member.traits.random or member.drew) and inside(member.module) is member.module

    def _drawn(self, member: Loaded, given: Tree, seed: int) -> Tree:
        """The answer of a member that draws random numbers: those of this run, whatever else the process has drawn."""
        with DRAWING, self._seeded(seed_for(seed, member.name)):
            return call_with(member.module, given)

    @contextlib.contextmanager
    def _seeded(self, number: int) -> Iterator[None]:
        """Have the generators begin at a number; those of the session, where this is its process, go on afterwards."""
        if self.own_process:
            seed_generators(number, gpus=True)
            yield
            return
        with generators_kept():
            seed_generators(number)
            yield

    def _given(self, index: int) -> Tree:
        """What a member is called with: the input, or a copy of it for one that writes into it.

        Its example does not tell for inputs of every look: `x.float()` is a copy of one, and another one itself. So
        each member gets a copy of the first of every look, and whoever has written into that gets one ever after.
        """
        tree = self._inputs[index]
        return _copy_of(tree) if index in self._unmet else self._input_for(self._arrangement[index], tree)

    def _has_met(self, index: int, given: Tree) -> None:
        """A member has run on a copy of the first input of a look."""
        member = self._arrangement[index]
        pairs = zip(flatten(given)[0], flatten(self._inputs[index])[0], strict=True)
        if writes(member.module) or not all(same_bytes(copied, leaf) for copied, leaf in pairs):
            member.overwrites_input = True
        self._met.add((self._look, index))
        self._unmet.discard(index)

    def _run_begun(self, kept: list[Kept | None]) -> list[Timed]:
        """Have every engine that can begin do so; then run the others here; then wait for what has begun.

        That is waited for also where one has raised: it would read the next input, and write into the next answer.
        """
        import torch

        timed: dict[int, Timed] = {}
        begun: deque[tuple[int, int, Callable[[], Tree]]] = deque()
        try:
            self._begin_engines(begun)
            others = set(range(len(self._arrangement))) - {index for index, _, _ in begun}
            timed.update((index, self._run_member(index, kept)) for index in sorted(others))
            with torch.inference_mode():
                while begun:
                    index, start, end = begun.popleft()
                    name = self._arrangement[index].name
                    try:
                        nan = self._store(index, *flatten(end(), f"the output of {name!r}"), kept)
                    except OF_MEMBERS as problem:
                        raise InSubModel(name) from problem
                    timed[index] = Timed(start, time.perf_counter_ns(), nan)
        finally:
            for _, _, end in begun:
                with contextlib.suppress(*OF_MEMBERS):
                    end()
        return [timed[index] for index in range(len(timed))]

    def _begin_engines(self, begun: deque[tuple[int, int, Callable[[], Tree]]]) -> None:
        """Have every engine that can begin do so; what has begun is in `begun` at once."""
        import torch

        with torch.inference_mode():
            for index, member in enumerate(self._arrangement):
                start = time.perf_counter_ns()
                given = self._given(index)
                try:
                    end = begin(member.module, given)
                except OF_MEMBERS as problem:
                    raise InSubModel(member.name) from problem
                if end is not None:
                    begun.append((index, start, end))
                    if index in self._unmet:
                        self._has_met(index, given)

    def _run_batched(self, kept: list[Kept | None]) -> list[Timed]:
        import torch

        assert self._batched is not None
        start = time.perf_counter_ns()
        try:
            with torch.inference_mode():
                given = self._given(0)
                answers = call_with(self._batched, given)
                nans = [self._store(index, *flatten(answer), kept) for index, answer in enumerate(answers)]
                if 0 in self._unmet:
                    self._has_met(0, given)
        except OF_MEMBERS as problem:
            raise InSubModel(self._arrangement[0].name) from problem
        end = time.perf_counter_ns()
        return [Timed(start, end, nan) for nan in nans]

    @staticmethod
    def _input_for(member: Loaded, tree: Tree) -> Tree:
        return _copy_of(tree) if member.overwrites_input else tree

    def _store(
        self,
        index: int,
        leaves: list[torch.Tensor],
        structure: Structure,
        kept: list[Kept | None],
    ) -> bool:
        """Write one member's outputs where the last ones were, or keep them when they look different."""
        what = f"the output of {self._arrangement[index].name!r}"
        if self._arena.fits(index, leaves, structure):
            try:
                self._arena.write(index, leaves)
            except (RuntimeError, TypeError):
                spec_of_leaves(leaves, structure, what)  # says it in our words, where it is the tensor's fault
                raise
        else:
            # Before anything reads them: what has no memory of its own would end this process.
            spec_of_leaves(leaves, structure, what)
            # Copies: what a member returns may be memory that it, or the next member of the lane, writes again.
            kept[index] = ([leaf.clone() for leaf in leaves], structure)
        return self._has_nan(leaves)

    @staticmethod
    def _has_nan(leaves: Sequence[torch.Tensor]) -> bool:
        return any((leaf.is_floating_point() or leaf.is_complex()) and bool(leaf.isnan().any()) for leaf in leaves)

    def _relay(self, kept: list[Kept | None]) -> bool:
        """Lay the outputs out anew after at least one changed its looks; returns whether the block is new."""
        return self._relay_from(self._arena, kept)

    def _relay_from(self, before: TreeArena, kept: list[Kept | None]) -> bool:
        """Lay out in the arena what has changed, and the other outputs as they are in `before`."""
        everything = []
        for index, outputs in enumerate(kept):
            if outputs is None:
                # Copied, since the new layout may lie over the old one.
                old = [view.clone() for view in before.tensors[index]]
                everything.append((old, before.layouts[index].spec.structure))
            else:
                everything.append(outputs)
        specs = [
            spec_of_leaves(leaves, structure, f"the output of {member.name!r}")
            for member, (leaves, structure) in zip(self._arrangement, everything, strict=True)
        ]
        grown = self._arena.prepare(specs)
        for index, (leaves, _) in enumerate(everything):
            self._arena.write(index, leaves)
        return grown

    # --- measuring -----------------------------------------------------------------------------------------------

    def call(self, function: str, name: str, kwargs: Mapping[str, Any]) -> Any:
        """Call "package.module:function" with a step of one loaded sub-model."""
        module, _, attribute = function.partition(":")
        target: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        step = self._step_of(self._get(name))
        try:
            return target(step, **kwargs)
        finally:
            step.engine.close()

    def _step_of(self, member: Loaded) -> ExampleRun:
        alone = Engine(self._placement)
        alone._loaded[member.name] = member
        alone.arrange((member.name,), "serial")
        alone._inputs = [member.example]
        return ExampleRun(engine=alone)

    def graph_lane(self) -> GraphLane | None:
        """This lane for a graph of the whole plan; None where not all of its sub-models are executed as graphs."""
        return None

    # --- the end -------------------------------------------------------------------------------------------------

    def lost(self) -> bool:
        """Whether nothing can run here any more; the worker then leaves."""
        return False

    def close(self) -> None:
        """Let go of what must not outlive it; called when nothing is asked of it any more."""


def _copy_of(tree: Tree) -> Tree:
    """A copy of an input, of the kind that inputs are: `torch.compile` compiles anew for tensors of inference mode."""
    import torch

    leaves, structure = flatten(tree)
    with torch.inference_mode(mode=False):
        return unflatten(structure, [leaf.clone() for leaf in leaves])


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleRun:
    """A run of one sub-model on its example, with everything that a real run does in the lane.

    Attributes:
        engine: Holds that sub-model alone.
    """

    engine: Engine

    def __call__(self) -> None:
        """Run once."""
        self.engine.run()
