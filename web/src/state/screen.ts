/** Whether the page has room for one thing beside the conversation. */

import { signal } from "@preact/signals";

/** The same width as in the styles. */
const query = matchMedia("(max-width: 860px)");

export const isNarrow = signal(query.matches);

query.addEventListener("change", () => (isNarrow.value = query.matches));
