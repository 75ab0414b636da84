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

/** A token's name for screen readers; it contains what is seen. */
export function spokenText(text: string, bytes?: number[]): string {
  return inlineText(text, bytes).trim() || "space";
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
