/** What the person said. */

import { useState } from "preact/hooks";
import type { UserMessage as Message } from "../conversation/message";
import { t } from "../messages/language";
import { isNarrow } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { BranchStepper } from "./branch-stepper";
import { EditField } from "./edit-field";
import { IconButton } from "./icon-button";
import { Menu, type MenuItem } from "./menu";

export function UserMessage({ message }: { message: Message }) {
  const bench = useWorkbench();
  const { editing } = bench.view;
  const actions: MenuItem[] = [
    ...(message.results === undefined
      ? [{ icon: "edit", label: t.message.edit, run: () => (editing.value = message.id) } as const]
      : []),
    { icon: "copy", label: t.message.copy, run: () => void bench.copy(message.text) },
    { icon: "link", label: t.message.copyLink, run: () => void bench.copyLink(message.id) },
    { icon: "trash", label: t.message.delete, run: () => bench.deleteMessage(message.id) },
  ];
  return (
    <article class="message said" data-message={message.id} tabIndex={-1} aria-label={message.results ? t.transcript.toolsAnswered : t.transcript.youSaid}>
      {editing.value === message.id ? (
        <EditField
          label={t.message.edit}
          text={message.text}
          hint={t.message.asksAgain}
          sends={[{ label: t.message.send, run: (text) => bench.sendInstead(message, text) }]}
        />
      ) : (
        <>
          <Bubble text={message.text} />
          <div class="actions">
            <BranchStepper id={message.id} />
            {isNarrow.value ? (
              <Menu label={t.message.actions} items={actions} />
            ) : (
              actions.map(({ icon, label, run }) => <IconButton key={label} icon={icon} label={label} onClick={run} />)
            )}
          </div>
        </>
      )}
    </article>
  );
}

/** More than this of a text is drawn, or put into a field, only when asked for. */
const LONG = 20_000;
const SHOWN_OF_LONG = 3_000;

function Bubble({ text }: { text: string }) {
  const [isWhole, setIsWhole] = useState(false);
  const isCut = text.length > LONG && !isWhole;
  return (
    <div class="bubble" dir="auto">
      {isCut ? `${text.slice(0, SHOWN_OF_LONG)}…` : text}
      {isCut && (
        <button type="button" class="button bubble-more" onClick={() => setIsWhole(true)}>
          {t.transcript.showAll(text.length)}
        </button>
      )}
    </div>
  );
}
