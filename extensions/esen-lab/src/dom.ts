/** Elements in one line each. Text is always text, never HTML: names come from notebooks. */

export type Child = Node | string | null | false | undefined;

export interface Attributes {
  [name: string]: string | boolean | undefined;
}

/** An element "tag.class.class" with attributes and children. */
export function h(what: string, attributes: Attributes = {}, ...children: Child[]): HTMLElement {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (typeof value === "string") element.setAttribute(name, value);
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

/**
 * Make the children of `target` look like `wanted`, in place: elements stay the ones they are, so that a button can be
 * pressed, focused or hovered while figures around it change. Listeners are therefore the container's, never an element's.
 */
export function morph(target: Element, wanted: readonly Node[]): void {
  wanted.forEach((node, index) => {
    const old = target.childNodes[index];
    if (!old) target.append(node);
    else if (old.nodeName !== node.nodeName) old.replaceWith(node);
    else if (old instanceof Element && node instanceof Element) {
      morphAttributes(old, node);
      morph(old, [...node.childNodes]);
    } else if (old.nodeValue !== node.nodeValue) old.nodeValue = node.nodeValue;
  });
  while (target.childNodes.length > wanted.length) target.lastChild?.remove();
}

function morphAttributes(old: Element, wanted: Element): void {
  for (const { name } of [...old.attributes]) {
    if (!wanted.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of [...wanted.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}
