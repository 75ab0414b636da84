/** The top of the page: who answers, and the ways to look at the conversation and set it up. */

import { t } from "../messages/language";
import { isNarrow, isPhone } from "../state/screen";
import type { Sheet } from "../state/view";
import { useWorkbench } from "../state/workbench";
import { sidebar } from "../storage/preferences";
import type { IconName } from "./icon";
import { IconButton } from "./icon-button";
import { Menu } from "./menu";
import { ModelPicker } from "./model-picker";

const SHEETS: readonly { sheet: Sheet & ("prompt" | "settings"); icon: IconName }[] = [
  { sheet: "prompt", icon: "prompt" },
  { sheet: "settings", icon: "sliders" },
];

export function Header() {
  const bench = useWorkbench();
  const { view } = bench;
  const showsButton = isNarrow.value || sidebar.value === "closed";
  return (
    <header class="header">
      {showsButton && (
        <>
          <IconButton
            icon="sidebar"
            label={t.header.showConversations}
            onClick={() => (isNarrow.value ? (view.drawer.value = true) : (sidebar.value = "open"))}
          />
          <IconButton icon="pen" label={t.header.newConversation} onClick={() => bench.showNew()} />
        </>
      )}
      <ModelPicker />
      <div class="header-tools">
        <IconButton
          icon="lens"
          label={t.inside.title}
          class="look-inside"
          isPressed={view.lookInside.value}
          onClick={() => view.toggleLookInside()}
        >
          <span aria-hidden="true">{t.inside.title}</span>
        </IconButton>
        <SheetButtons isFolded={isPhone.value} />
        {bench.talk && !isNarrow.value && <ConversationMenu id={bench.talk.id} />}
      </div>
    </header>
  );
}

/** What opens the sheets: buttons, or a menu where the model's name needs their room. */
function SheetButtons({ isFolded }: { isFolded: boolean }) {
  const { view, settings } = useWorkbench();
  const isChanged = Object.keys(settings.value).some((name) => name !== "model");
  if (isFolded) {
    const items = SHEETS.map(({ sheet, icon }) => ({ icon, label: t.common[sheet], run: () => view.toggleSheet(sheet) }));
    return <Menu label={t.header.promptAndSettings} items={items} isMarked={isChanged} />;
  }
  return (
    <>
      {SHEETS.map(({ sheet, icon }) => (
        <IconButton
          key={sheet}
          icon={icon}
          label={t.common[sheet]}
          class={`sheet-button ${sheet === "settings" && isChanged ? "is-marked" : ""}`}
          isPressed={view.sheet.value === sheet}
          onClick={() => view.toggleSheet(sheet)}
        >
          <span aria-hidden="true">{t.common[sheet]}</span>
        </IconButton>
      ))}
    </>
  );
}

function ConversationMenu({ id }: { id: string }) {
  const bench = useWorkbench();
  return (
    <Menu
      label={t.header.thisConversation}
      items={[
        { icon: "download", label: t.sidebar.exportMarkdown, run: () => void bench.exportAs("md", id) },
        { icon: "download", label: t.sidebar.exportJson, run: () => void bench.exportAs("json", id) },
        { icon: "print", label: t.sidebar.print, run: () => print() },
        { icon: "trash", label: t.sidebar.deleteConversation, isDangerous: true, run: () => void bench.deleteConversations([id]) },
      ]}
    />
  );
}
