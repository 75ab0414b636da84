/** How tokens are shown: their text with its spaces and line ends visible, and how surprising each was. */

import { isSpecial } from "../conversation/tokens";

/** A token's text by itself, where spaces would not be seen. */
export function visibleText(text: string, bytes?: number[]): string {
  if (isSpecial(text)) {
    return text.slice(2, -2);
  }
  if (bytes) {
    return bytes.map((byte) => `⟨${byte.toString(16).padStart(2, "0").toUpperCase()}⟩`).join("");
  }
  return text.replace(/ /g, "·").replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/\r/g, "␍");
}

/** A token's text within the reply. */
export function inlineText(text: string, bytes?: number[]): string {
  return isSpecial(text) || bytes ? visibleText(text, bytes) : text.replace(/\n+/g, (ends) => "↵".repeat(ends.length));
}

/** What screen readers pass over in silence, or would run together with the probability that follows. */
const NAMES: Readonly<Record<string, string>> = {
  " ": "space", "\n": "line break", "\t": "tab", "\r": "carriage return", ",": "comma", ".": "period", ":": "colon",
  ";": "semicolon", "!": "exclamation mark", "?": "question mark", "'": "apostrophe", "’": "apostrophe", '"': "quotation mark",
  "“": "opening quotation mark", "”": "closing quotation mark", "(": "opening parenthesis", ")": "closing parenthesis",
  "[": "opening bracket", "]": "closing bracket", "{": "opening brace", "}": "closing brace", "<": "less than",
  ">": "greater than", "-": "hyphen", "–": "dash", "—": "dash", "_": "underscore", "*": "asterisk", "/": "slash",
  "\\": "backslash", "|": "bar", "`": "backtick", "^": "caret", "~": "tilde", "#": "number sign", "…": "ellipsis",
};

/** A token's name for screen readers: words as they are, signs and spaces by their names. */
export function spokenText(text: string, bytes?: number[]): string {
  if (isSpecial(text)) {
    return `mark ${text.slice(2, -2).replace(/_/g, " ")}`;
  }
  if (bytes) {
    return `part of a character, ${bytes.length === 1 ? "byte" : "bytes"} ${bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ")}`;
  }
  const spoken = /[\p{L}\p{N}]/u.test(text) ? text.trim() : "";
  return spoken || [...(text.trim() || text)].map((sign) => NAMES[sign] ?? sign).join(", ") || "nothing";
}

const COLDEST_BITS = 5;

/** How surprising a probability is, 0 (certain) to 1 (1 in 32 or less), in bits as information theory counts. */
export function heatOf(probability: number): number {
  return Math.min(1, Math.max(0, -Math.log2(probability) / COLDEST_BITS));
}

/** A probability as a person reads it: 83 %, 0.4 %, under 0.1 %. */
export function percent(probability: number): string {
  const value = 100 * probability;
  if (value >= 99.95) {
    return "100 %";
  }
  if (value < 0.1) {
    return "< 0.1 %";
  }
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} %`;
}
