/** Marks what was searched for, without touching what is drawn (CSS Custom Highlight API). */

const NAME = "found";

/** Mark every place in `element` where `sought` is said; null marks nothing any more. */
export function markFound(element: Element | null, sought: string): void {
  if (!("highlights" in CSS)) {
    return;
  }
  const ranges: Range[] = [];
  const words = sought.toLocaleLowerCase();
  const texts = element && words !== "" ? document.createTreeWalker(element, NodeFilter.SHOW_TEXT) : null;
  for (let node = texts?.nextNode(); node; node = texts!.nextNode()) {
    const text = (node.textContent ?? "").toLocaleLowerCase();
    for (let at = text.indexOf(words); at >= 0; at = text.indexOf(words, at + words.length)) {
      const range = new Range();
      range.setStart(node, at);
      range.setEnd(node, Math.min(at + words.length, node.textContent!.length));
      ranges.push(range);
    }
  }
  CSS.highlights.set(NAME, new Highlight(...ranges));
}
