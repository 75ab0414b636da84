/** A conversation in the list: opens it, renames it, exports or deletes it. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { plainTitle } from "../conversation/direction";
import type { Conversation } from "../conversation/message";
import { entryElement, focusWhenLost } from "../state/focus";
import { useWorkbench } from "../state/workbench";
import { Menu } from "./menu";

export function ConversationEntry({ conversation }: { conversation: Conversation }) {
  const bench = useWorkbench();
  const [isRenaming, setIsRenaming] = useState(false);
  const { id } = conversation;
  const title = plainTitle(conversation.title);
  const isOpen = bench.talk?.id === id;
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
        onClick={() => void bench.show(id)}
        {...(isOpen && { "aria-current": "page" })}
      >
        {title}
      </button>
      <Menu
        label={`Actions for ${title}`}
        items={[
          { icon: "edit", label: "Rename", run: () => setIsRenaming(true) },
          { icon: "download", label: "Export as Markdown", run: () => void bench.exportAs("md", id) },
          { icon: "download", label: "Export as JSON", run: () => void bench.exportAs("json", id) },
          { icon: "trash", label: "Delete", isDangerous: true, run: () => void bench.deleteConversation(id) },
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
      aria-label="New title"
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
