/** The conversations in this browser: beside the page where there is room, over it where there is not. */

import { useEffect, useState } from "preact/hooks";
import type { Conversation } from "../conversation/message";
import { isNarrow } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { sidebar } from "../storage/preferences";
import { Boundary } from "./boundary";
import { ConversationEntry } from "./conversation-entry";
import { Icon } from "./icon";
import { IconButton } from "./icon-button";
import { Menu } from "./menu";
import { Overlay } from "./overlay";
import { ThemeSwitch } from "./theme-switch";

export function Sidebar() {
  const { view } = useWorkbench();
  if (isNarrow.value) {
    return view.drawer.value ? (
      <Overlay class="drawer" label="Conversations" onClose={() => (view.drawer.value = false)}>
        <Contents onHide={() => (view.drawer.value = false)} />
      </Overlay>
    ) : null;
  }
  return sidebar.value === "open" ? (
    <aside class="sidebar" aria-label="Conversations">
      <Contents onHide={() => (sidebar.value = "closed")} />
    </aside>
  ) : null;
}

function Contents({ onHide }: { onHide: () => void }) {
  const bench = useWorkbench();
  const [query, setQuery] = useState("");
  const found = useSearch(query.trim());
  const shown = bench.library.list.value.filter(({ id }) => found === null || found.has(id));
  return (
    <>
      <div class="sidebar-head">
        <span class="brand">
          <Icon name="anvil" size={20} /> chatsmith
        </span>
        <IconButton icon="sidebar" label="Hide conversations" onClick={onHide} />
      </div>
      <button type="button" class="new-conversation" onClick={() => bench.showNew()}>
        <Icon name="pen" /> New conversation
      </button>
      <label class="search">
        <Icon name="search" size={16} />
        <input
          id="search"
          dir="auto"
          type="search"
          placeholder="Search"
          aria-label="Search conversations"
          value={query}
          onInput={(event) => setQuery(event.currentTarget.value)}
        />
      </label>
      <nav class="conversations" aria-label="Conversations">
        {byDay(shown).map(([day, conversations]) => (
          <section key={day}>
            <h2>{day}</h2>
            <ul>
              {conversations.map((conversation) => (
                <Boundary key={conversation.id} of={conversation} instead={<UndrawnEntry id={conversation.id} />}>
                  <ConversationEntry conversation={conversation} />
                </Boundary>
              ))}
            </ul>
          </section>
        ))}
        {shown.length === 0 && (
          <p class="no-conversations">{found ? "Nothing found." : "What you talk about appears here. It stays in this browser."}</p>
        )}
      </nav>
      <div class="sidebar-foot">
        <ThemeSwitch />
        <IconButton icon="keyboard" label="Keyboard shortcuts" onClick={() => (bench.view.dialog.value = "shortcuts")} />
        <Menu
          label="All conversations"
          items={[
            { icon: "upload", label: "Import from files", run: () => void bench.importFiles() },
            { icon: "download", label: "Export all as JSON", run: () => void bench.exportAll() },
          ]}
        />
      </div>
    </>
  );
}

/** In the place of an entry that the page failed to draw. */
function UndrawnEntry({ id }: { id: string }) {
  const bench = useWorkbench();
  return (
    <li class="entry">
      <span class="entry-title">Cannot be shown</span>
      <IconButton icon="trash" label="Delete a conversation that cannot be shown" onClick={() => void bench.deleteConversation(id)} />
    </li>
  );
}

const SEARCH_MILLISECONDS = 120;

/** The ids of the conversations that contain `query`; null while there is none. */
function useSearch(query: string): ReadonlySet<string> | null {
  const { library } = useWorkbench();
  const [found, setFound] = useState<ReadonlySet<string> | null>(null);
  useEffect(() => {
    let isCurrent = true;
    const timer = setTimeout(() => {
      void (query === "" ? Promise.resolve(null) : library.search(query)).then((ids) => isCurrent && setFound(ids));
    }, SEARCH_MILLISECONDS);
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [query, library.list.value]);
  return query === "" ? null : found;
}

const DAY = 24 * 60 * 60 * 1000;

function byDay(conversations: readonly Conversation[]): [string, Conversation[]][] {
  const today = new Date().setHours(0, 0, 0, 0);
  const groups = new Map<string, Conversation[]>();
  for (const conversation of conversations) {
    const { updatedAt } = conversation;
    const day =
      updatedAt >= today
        ? "Today"
        : updatedAt >= today - DAY
          ? "Yesterday"
          : updatedAt >= today - 7 * DAY
            ? "Last seven days"
            : new Date(updatedAt).toLocaleDateString("en", { month: "long", year: "numeric" });
    groups.set(day, [...(groups.get(day) ?? []), conversation]);
  }
  return [...groups];
}
