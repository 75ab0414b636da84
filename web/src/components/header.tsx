/** The top of the page: who answers, and the ways to look at the conversation and set it up. */

import { isNarrow } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { sidebar } from "../storage/preferences";
import { IconButton } from "./icon-button";
import { Menu } from "./menu";
import { ModelPicker } from "./model-picker";

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
        <IconButton
          icon="prompt"
          label="Prompt"
          isPressed={view.sheet.value === "prompt"}
          onClick={() => view.toggleSheet("prompt")}
        />
        <IconButton
          icon="sliders"
          label="Settings"
          isPressed={view.sheet.value === "settings"}
          onClick={() => view.toggleSheet("settings")}
        />
        {bench.talk && !isNarrow.value && <ConversationMenu id={bench.talk.id} />}
      </div>
    </header>
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
        { icon: "trash", label: "Delete conversation", isDangerous: true, run: () => void bench.deleteConversation(id) },
      ]}
    />
  );
}
