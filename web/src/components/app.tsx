/** The page, drawn anew in another language when that is chosen. */

import { language, t } from "../messages/language";
import { isTouch } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { Beginning } from "./beginning";
import { Boundary } from "./boundary";
import { Composer } from "./composer";
import { Header } from "./header";
import { KeyDialog } from "./key-dialog";
import { NoticeBar } from "./notice-bar";
import { RatingsDialog } from "./ratings-dialog";
import { ShortcutsDialog } from "./shortcuts-dialog";
import { SideSheet } from "./side-sheet";
import { Sidebar } from "./sidebar";
import { TokenLegend } from "./token-legend";
import { Transcript } from "./transcript";

export function App() {
  return <Page key={language.value} />;
}

function Page() {
  const bench = useWorkbench();
  const talk = bench.library.open.value;
  const { dialog, lookInside } = bench.view;
  return (
    <>
      <button type="button" class="skip" onClick={() => document.querySelector<HTMLElement>("#message")?.focus()}>
        {t.page.skip}
      </button>
      <Sidebar />
      <main class={lookInside.value ? "main is-looking-inside" : "main"}>
        <Header />
        <Boundary of={talk} instead={<p class="transcript undrawn">{t.page.undrawn}</p>}>
          {talk ? <Transcript key={talk.id} talk={talk} /> : <Beginning />}
        </Boundary>
        {lookInside.value && <TokenLegend />}
        <Composer />
      </main>
      <Boundary of={bench.view.sheet.value} instead={null}>
        <SideSheet />
      </Boundary>
      {dialog.value === "key" && <KeyDialog />}
      {dialog.value === "ratings" && <RatingsDialog />}
      {dialog.value === "shortcuts" && !isTouch && <ShortcutsDialog />}
      <NoticeBar />
      <div class="visually-hidden" role="status">
        {bench.writer.announcement.value}
      </div>
    </>
  );
}
