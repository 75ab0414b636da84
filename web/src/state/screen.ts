/** What the page is seen on and worked with. */

import { signal, type ReadonlySignal } from "@preact/signals";

/** Whether there is room for the conversation only. The same width as in the styles. */
export const isNarrow = isAtMost(860);

/** Whether there is not even room for all that the header and the message field would show. */
export const isPhone = isAtMost(480);

/** Whether fingers do it all: a focused field then covers half of the page with a keyboard, and Enter is a new line. */
export const isTouch = matchMedia("(hover: none) and (pointer: coarse)").matches;

function isAtMost(width: number): ReadonlySignal<boolean> {
  const query = matchMedia(`(max-width: ${width}px)`);
  const matches = signal(query.matches);
  query.addEventListener("change", () => (matches.value = query.matches));
  return matches;
}
