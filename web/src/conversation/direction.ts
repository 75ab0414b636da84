/** Which way a text is written, and texts that try to turn what stands beside them. */

const RIGHT_TO_LEFT =
  /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\p{Script=Samaritan}\p{Script=Mandaic}\p{Script=Adlam}]/u;

/** The direction of the first letter, as `dir="auto"` takes it; undefined where there is none. */
export function directionOf(text: string): "ltr" | "rtl" | undefined {
  const first = /\p{L}/u.exec(text)?.[0];
  return first === undefined ? undefined : RIGHT_TO_LEFT.test(first) ? "rtl" : "ltr";
}

/** Characters that are not seen and change the direction of others (Unicode Bidirectional Algorithm, 2). */
const CONTROLS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const LONGEST_TITLE = 200;

/** A title that can stand in a row: one line that is not empty, not endless, and turns nothing around. */
export function plainTitle(title: string): string {
  const line = title.slice(0, 10 * LONGEST_TITLE).replace(CONTROLS, "").replace(/\s+/g, " ").trim();
  return line === "" ? "Untitled" : [...line].slice(0, LONGEST_TITLE).join("");
}
