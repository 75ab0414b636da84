/** How tokens are shown: their text with its spaces and line ends visible, and how surprising each was. */

import { isSpecial } from "../conversation/tokens";
import { named, t } from "../messages/language";
import { fixed } from "../messages/numbers";

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

/** A token's name for screen readers: words as they are, signs and spaces by their names. */
export function spokenText(text: string, bytes?: number[]): string {
  if (isSpecial(text)) {
    return t.inside.mark(text.slice(2, -2).replace(/_/g, " "));
  }
  if (bytes) {
    return t.inside.bytes(bytes.length, bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" "));
  }
  const spoken = /[\p{L}\p{N}]/u.test(text) ? text.trim() : "";
  return spoken || [...(text.trim() || text)].map((sign) => named(t.signs, sign)).join(", ") || t.inside.nothing;
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
    return t.format.percent("100");
  }
  if (value < 0.1) {
    return t.format.percent(`< ${fixed(0.1, 1)}`);
  }
  return t.format.percent(fixed(value, value >= 10 ? 0 : 1));
}
