/** The conversations in this browser: beside the page where there is room, over it where there is not. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Conversation } from "../conversation/message";
import { t } from "../messages/language";
import { isNarrow, isTouch } from "../state/screen";
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
      <Overlay class="drawer" label={t.sidebar.conversations} onClose={() => (view.drawer.value = false)}>
        <Contents onHide={() => (view.drawer.value = false)} />
      </Overlay>
    ) : null;
  }
  return sidebar.value === "open" ? (
    <aside class="sidebar" aria-label={t.sidebar.conversations}>
      <Contents onHide={() => (sidebar.value = "closed")} />
    </aside>
  ) : null;
}

function Contents({ onHide }: { onHide: () => void }) {
  const bench = useWorkbench();
  const [query, setQuery] = useState("");
  const found = useSearch(query.trim());
  const all = bench.library.list.value;
  const shown = useMemo(() => (found === null ? all : all.filter(({ id }) => found.has(id))), [all, found]);
  const rows = useMemo(() => rowsOf(shown), [shown]);
  const frame = useRef<HTMLElement>(null);
  const [top, setTop] = useState(0);
  const { first, end, above, below } = windowOf(rows, top, frame.current?.clientHeight ?? innerHeight);
  return (
    <>
      <div class="sidebar-head">
        <span class="brand">
          <Icon name="anvil" size={20} /> chatsmith
        </span>
        <IconButton icon="sidebar" label={t.sidebar.hide} onClick={onHide} />
      </div>
      <button type="button" class="new-conversation" onClick={() => bench.showNew()}>
        <Icon name="pen" /> {t.sidebar.newConversation}
      </button>
      <label class="search">
        <Icon name="search" size={16} />
        <input
          id="search"
          dir="auto"
          type="search"
          placeholder={t.sidebar.search}
          aria-label={t.sidebar.searchLabel}
          value={query}
          onInput={(event) => setQuery(event.currentTarget.value)}
        />
      </label>
      <nav class="conversations" aria-label={t.sidebar.conversations} ref={frame} onScroll={(event) => setTop(event.currentTarget.scrollTop)}>
        <div style={{ height: `${above}rem` }} />
        {sectionsOf(rows.slice(first, end)).map(([day, conversations], index) => (
          <section key={day ?? index} aria-label={day ?? undefined}>
            {day && <h2>{day}</h2>}
            <ul>
              {conversations.map((conversation) => (
                <Boundary key={conversation.id} of={conversation} instead={<UndrawnEntry id={conversation.id} />}>
                  <ConversationEntry conversation={conversation} sought={query.trim()} />
                </Boundary>
              ))}
            </ul>
          </section>
        ))}
        <div style={{ height: `${below}rem` }} />
        {shown.length === 0 && (
          <p class="no-conversations">{found ? t.sidebar.nothingFound : t.sidebar.empty}</p>
        )}
      </nav>
      {bench.view.selected.value !== null && <Selection shown={shown} />}
      <div class="sidebar-foot">
        <ThemeSwitch />
        {!isTouch && (
          <IconButton icon="keyboard" label={t.sidebar.shortcuts} onClick={() => (bench.view.dialog.value = "shortcuts")} />
        )}
        <Menu
          label={t.sidebar.all}
          items={[
            { icon: "upload", label: t.sidebar.importFiles, run: () => void bench.importFiles() },
            { icon: "download", label: t.sidebar.exportAll, run: () => void bench.exportAll() },
            { icon: "good", label: t.sidebar.rated, run: () => (bench.view.dialog.value = "ratings") },
            { icon: "check", label: t.sidebar.chooseSeveral, run: () => (bench.view.selected.value = new Set()) },
          ]}
        />
      </div>
    </>
  );
}

/** What can be done with the conversations that were chosen. */
function Selection({ shown }: { shown: readonly Conversation[] }) {
  const bench = useWorkbench();
  const { selected } = bench.view;
  const chosen = selected.value ?? new Set<string>();
  const isNone = chosen.size === 0;
  return (
    <div class="selection" role="group" aria-label={t.sidebar.chosen}>
      <span role="status">{t.sidebar.numChosen(chosen.size)}</span>
      <button type="button" onClick={() => (selected.value = new Set(shown.map(({ id }) => id)))}>
        {t.sidebar.chooseAll}
      </button>
      <IconButton icon="download" label={t.sidebar.exportChosen} isDisabled={isNone} onClick={() => void bench.exportAll(chosen)} />
      <IconButton icon="trash" label={t.sidebar.deleteChosen} isDisabled={isNone} onClick={() => void bench.deleteConversations([...chosen])} />
      <IconButton icon="close" label={t.sidebar.done} onClick={() => (selected.value = null)} />
    </div>
  );
}

/** In the place of an entry that the page failed to draw. */
function UndrawnEntry({ id }: { id: string }) {
  const bench = useWorkbench();
  return (
    <li class="entry">
      <span class="entry-title">{t.sidebar.undrawn}</span>
      <IconButton icon="trash" label={t.sidebar.deleteUndrawn} onClick={() => void bench.deleteConversations([id])} />
    </li>
  );
}

const SEARCH_MILLISECONDS = 120;

/** The ids of the conversations that contain `query`; null while there is none. */
function useSearch(query: string): ReadonlySet<string> | null {
  const { library } = useWorkbench();
  const [found, setFound] = useState<ReadonlySet<string> | null>(null);
  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    const timer = setTimeout(() => {
      const search = query === "" ? Promise.resolve(null) : library.search(query, signal);
      void search.then((ids) => signal.aborted || setFound(ids));
    }, SEARCH_MILLISECONDS);
    return () => {
      controller.abort(); // the next key has other things to look for
      clearTimeout(timer);
    };
  }, [query, library.list.value]);
  return query === "" ? null : found;
}

const DAY = 24 * 60 * 60 * 1000;

/** A line of the list: a conversation, or the day above those that were last used then. */
type Row = Conversation | string;

function rowsOf(conversations: readonly Conversation[]): Row[] {
  const today = new Date().setHours(0, 0, 0, 0);
  let last = "";
  return conversations.flatMap((conversation) => {
    const day = conversation.pinned ? t.sidebar.pinned : dayOf(conversation.updatedAt, today);
    const rows = day === last ? [conversation] : [day, conversation];
    last = day;
    return rows;
  });
}

function dayOf(time: number, today: number): string {
  if (time >= today) {
    return t.sidebar.today;
  }
  if (time >= today - DAY) {
    return t.sidebar.yesterday;
  }
  return time >= today - 7 * DAY ? t.sidebar.lastWeek : t.format.month(time);
}

/** Days, each with its conversations; conversations before the first day stand in a section without one. */
function sectionsOf(rows: readonly Row[]): [string | null, Conversation[]][] {
  const sections: [string | null, Conversation[]][] = [];
  for (const row of rows) {
    if (typeof row === "string") {
      sections.push([row, []]);
    } else if (sections.length === 0) {
      sections.push([null, [row]]);
    } else {
      sections.at(-1)![1].push(row);
    }
  }
  return sections;
}

// As in the styles, in rem.
const ENTRY_HEIGHT = 2.3;
const DAY_HEIGHT = 2.5;
/** Fewer are all drawn; of more, those that are seen, and some above and below them for the keyboard to go on to. */
const MOST_DRAWN = 120;
const BESIDE = 30;

/** Which rows are drawn, and the room, in rem, that those above and below them take. */
function windowOf(rows: readonly Row[], top: number, height: number) {
  if (rows.length <= MOST_DRAWN) {
    return { first: 0, end: rows.length, above: 0, below: 0 };
  }
  const rem = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
  const heightOf = (row: Row) => (typeof row === "string" ? DAY_HEIGHT : ENTRY_HEIGHT);
  let at = 0;
  let seenFirst = 0;
  for (; seenFirst < rows.length - 1 && (at + heightOf(rows[seenFirst]!)) * rem < top; seenFirst++) {
    at += heightOf(rows[seenFirst]!);
  }
  const seen = Math.ceil(height / rem / ENTRY_HEIGHT);
  const first = Math.max(0, seenFirst - BESIDE);
  const end = Math.min(rows.length, seenFirst + seen + BESIDE);
  const sum = (some: readonly Row[]) => some.reduce((total, row) => total + heightOf(row), 0);
  return { first, end, above: sum(rows.slice(0, first)), below: sum(rows.slice(end)) };
}
