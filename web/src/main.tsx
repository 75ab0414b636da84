/** Where the page begins. */

import { render } from "preact";
import { App } from "./components/app";
import { followLanguage } from "./messages/language";
import { followAddress } from "./state/address";
import { listenToKeys } from "./state/keyboard";
import { Workbench, WorkbenchProvider } from "./state/workbench";
import { followTheme } from "./storage/preferences";
import "./styles/theme.css";
import "./styles/base.css";
import "./styles/layout.css";
import "./styles/controls.css";
import "./styles/sidebar.css";
import "./styles/transcript.css";
import "./styles/markdown.css";
import "./styles/composer.css";
import "./styles/sheets.css";
import "./styles/tokens.css";

followTheme();
await followLanguage();
const bench = await Workbench.open();
await followAddress(bench);
render(
  <WorkbenchProvider value={bench}>
    <App />
  </WorkbenchProvider>,
  document.querySelector("#app")!,
);
bench.start();
listenToKeys(bench);
if (import.meta.env.PROD && "serviceWorker" in navigator) {
  // Only where the page may be kept at all: https, or this machine.
  void navigator.serviceWorker.register(new URL("service-worker.js", document.baseURI)).catch(() => undefined);
}
