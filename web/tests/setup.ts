/** Every test speaks English. */

import { loadLanguage } from "../src/messages/language";

await loadLanguage("en");
