/** Where the training page begins. It shares styles and preferences with the chat, and loads nothing else of it. */

import { render } from "preact";
import { followLanguage } from "../messages/language";
import { followTheme } from "../storage/preferences";
import "../styles/theme.css";
import "../styles/base.css";
import "../styles/controls.css";
import "../styles/tokens.css";
import "../styles/runs.css";
import { Spoken } from "./page";
import { Watching } from "./watching";

followTheme();
await followLanguage();
const watching = new Watching();
render(<Spoken watching={watching} />, document.querySelector("#app")!);
watching.start();
