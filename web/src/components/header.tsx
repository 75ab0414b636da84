/** The top of the page: who answers, and the ways to look at the conversation and set it up. */

import { isNarrow, isPhone } from "../state/screen";
import type { Sheet } from "../state/view";
import { useWorkbench } from "../state/workbench";
import { sidebar } from "../storage/preferences";
import type { IconName } from "./icon";
import { IconButton } from "./icon-button";
import { Menu } from "./menu";
import { ModelPicker } from "./model-picker";

const SHEETS: readonly { sheet: Sheet; icon: IconName; label: string }[] = [
  { sheet: "prompt", icon: "prompt", label: "Prompt" },
  { sheet: "settings", icon: "sliders", label: "Settings" },
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
            label="Show conversations"
            onClick={() => (isNarrow.value ? (view.drawer.value = true) : (sidebar.value = "open"))}
          />
          <IconButton icon="pen" label="New conversation" onClick={() => bench.showNew()} />
        </>
      )}
      <ModelPicker />
      <div class="header-tools">
        <IconButton
          icon="lens"
          label="Look inside"
          class="look-inside"
          isPressed={view.lookInside.value}
          onClick={() => view.toggleLookInside()}
        >
          <span aria-hidden="true">Look inside</span>
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
    const items = SHEETS.map(({ sheet, icon, label }) => ({ icon, label, run: () => view.toggleSheet(sheet) }));
    return <Menu label="Prompt and settings" items={items} />;
  }
  return (
    <>
      {SHEETS.map(({ sheet, icon, label }) => (
        <IconButton
          key={sheet}
          icon={icon}
          label={label}
          class={sheet === "settings" && isChanged ? "is-marked" : ""}
          isPressed={view.sheet.value === sheet}
          onClick={() => view.toggleSheet(sheet)}
        />
      ))}
    </>
  );
}

function ConversationMenu({ id }: { id: string }) {
  const bench = useWorkbench();
  return (
    <Menu
      label="This conversation"
      items={[
        { icon: "download", label: "Export as Markdown", run: () => void bench.exportAs("md", id) },
        { icon: "download", label: "Export as JSON", run: () => void bench.exportAs("json", id) },
        { icon: "print", label: "Print", run: () => print() },
        { icon: "trash", label: "Delete conversation", isDangerous: true, run: () => void bench.deleteConversations([id]) },
      ]}
    />
  );
}
