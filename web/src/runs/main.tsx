/** Where the training page begins. It shares styles and preferences with the chat, and loads nothing else of it. */

import { render } from "preact";
import { followTheme } from "../storage/preferences";
import "../styles/theme.css";
import "../styles/base.css";
import "../styles/controls.css";
import "../styles/tokens.css";
import "../styles/runs.css";
import { RunsPage } from "./page";
import { Watching } from "./watching";

followTheme();
const watching = new Watching();
render(<RunsPage watching={watching} />, document.querySelector("#app")!);
watching.start();
