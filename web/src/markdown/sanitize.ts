/**
 * The last gate before HTML enters the page: DOMPurify with a list of what Markdown, code and formulas need.
 *
 * `to-html.ts` already lets no HTML of the model's through. This is the second, independent, lock.
 */

import DOMPurify, { type Config } from "dompurify";

const TAGS = [
  ..."p br hr h1 h2 h3 h4 h5 h6 strong em del code pre blockquote ul ol li a span div button".split(" "),
  ..."table thead tbody tr th td".split(" "),
  // What KaTeX draws with, and its MathML for screen readers.
  ..."math semantics annotation mrow mi mo mn ms mtext mspace msup msub msubsup mfrac msqrt mroot mover munder".split(" "),
  ..."munderover mtable mtr mtd mstyle mpadded mphantom menclose svg path line".split(" "),
];
const ATTRIBUTES = [
  ..."href class dir type tabindex start align data-language aria-hidden style encoding xmlns display".split(" "),
  ..."mathvariant stretchy fence separator accent accentunder minsize maxsize lspace rspace width height depth".split(" "),
  ..."columnalign columnspacing rowspacing columnlines rowlines linethickness scriptlevel displaystyle notation".split(" "),
  ..."viewBox preserveAspectRatio d x1 x2 y1 y2 stroke-width fill stroke".split(" "),
];

const CONFIG: Config = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ATTRIBUTES,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOW_UNKNOWN_PROTOCOLS: false,
  // What may be an address must be one of these; no other attribute here is ever read as one.
  ALLOWED_URI_REGEXP: /^(https?:\/\/|mailto:)/i,
  ADD_URI_SAFE_ATTR: ATTRIBUTES.filter((name) => name !== "href"),
};

const purify = DOMPurify(window);
purify.addHook("afterSanitizeAttributes", (element) => {
  if (element.tagName === "A") {
    element.setAttribute("target", "_blank");
    element.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

/** `html` without anything that could run, load or lead elsewhere by itself. */
export function sanitize(html: string): string {
  return purify.sanitize(html, CONFIG);
}
