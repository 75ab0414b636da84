/** A conversation in the list: opens it, renames it, exports or deletes it. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { plainTitle } from "../conversation/direction";
import type { Conversation } from "../conversation/message";
import { t } from "../messages/language";
import { entryElement, focusWhenLost } from "../state/focus";
import { useWorkbench } from "../state/workbench";
import { Menu } from "./menu";

interface Props {
  conversation: Conversation;
  /** What was searched for, to be shown where it is said. */
  sought: string;
}

export function ConversationEntry({ conversation, sought }: Props) {
  const bench = useWorkbench();
  const [isRenaming, setIsRenaming] = useState(false);
  const { id } = conversation;
  const title = plainTitle(conversation.title);
  const isOpen = bench.talk?.id === id;
  const { selected } = bench.view;
  if (selected.value !== null) {
    const isChosen = selected.value.has(id);
    const toggle = () => {
      const all = new Set(selected.value);
      if (!all.delete(id)) {
        all.add(id);
      }
      selected.value = all;
    };
    return (
      <li class="entry">
        <label class="entry-title check" dir="auto">
          <input type="checkbox" checked={isChosen} onChange={toggle} />
          {title}
        </label>
      </li>
    );
  }
  if (isRenaming) {
    return (
      <li class="entry">
        <RenameField
          title={title}
          onDone={(renamed) => {
            setIsRenaming(false);
            focusWhenLost(() => entryElement(id));
            if (renamed !== null) {
              void bench.library.rename(id, renamed);
            }
          }}
        />
      </li>
    );
  }
  return (
    <li class={`entry ${isOpen ? "is-open" : ""}`}>
      <button
        type="button"
        class="entry-title"
        data-conversation={id}
        title={title}
        dir="auto"
        onClick={() => void bench.show(id, { sought })}
        {...(isOpen && { "aria-current": "page" })}
      >
        {title}
      </button>
      <Menu
        label={t.sidebar.actionsFor(title)}
        items={[
          {
            icon: "pin",
            label: conversation.pinned ? t.sidebar.unpin : t.sidebar.pin,
            run: () => {
              void bench.library.pin(id, !conversation.pinned);
              focusWhenLost(() => entryElement(id));
            },
          },
          { icon: "edit", label: t.sidebar.rename, run: () => setIsRenaming(true) },
          { icon: "download", label: t.sidebar.exportMarkdown, run: () => void bench.exportAs("md", id) },
          { icon: "download", label: t.sidebar.exportJson, run: () => void bench.exportAs("json", id) },
          { icon: "trash", label: t.sidebar.delete, isDangerous: true, run: () => void bench.deleteConversations([id]) },
        ]}
      />
    </li>
  );
}

function RenameField({ title, onDone }: { title: string; onDone: (renamed: string | null) => void }) {
  const field = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => field.current?.select(), []);
  return (
    <input
      ref={field}
      class="rename"
      dir="auto"
      aria-label={t.sidebar.newTitle}
      defaultValue={title}
      onBlur={(event) => onDone(event.currentTarget.value)}
      onKeyDown={(event) => {
        if (event.key === "Enter") {
          event.currentTarget.blur();
        } else if (event.key === "Escape") {
          event.stopPropagation();
          event.currentTarget.value = title;
          event.currentTarget.blur();
        }
      }}
    />
  );
}
