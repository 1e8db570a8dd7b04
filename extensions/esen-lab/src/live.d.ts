/** esen_lab/ui/assets/live.js, as tools/extension.py puts it beside the compiled modules. */
declare const live: {
  initialize(given: { model: unknown }): () => void;
  render(given: { model: unknown; el: HTMLElement }): Promise<() => void>;
};
export default live;
