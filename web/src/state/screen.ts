/** What the page is seen on and worked with. */

import { signal } from "@preact/signals";

/** The same width as in the styles. */
const query = matchMedia("(max-width: 860px)");

/** Whether there is room for the conversation only. */
export const isNarrow = signal(query.matches);

/** Whether fingers do it all: a focused field then covers half of the page with a keyboard, and Enter is a new line. */
export const isTouch = matchMedia("(hover: none) and (pointer: coarse)").matches;

query.addEventListener("change", () => (isNarrow.value = query.matches));
