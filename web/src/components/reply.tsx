/** A reply of the model: what it said, as text or as tokens, and what can be done with it. */

import { isEmpty, plainText, type Reply as ReplyMessage } from "../conversation/message";
import { t } from "../messages/language";
import { isNarrow } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { BranchStepper } from "./branch-stepper";
import { EditField } from "./edit-field";
import { Figures } from "./figures";
import { Icon } from "./icon";
import { IconButton } from "./icon-button";
import { Markdown } from "./markdown";
import { Menu, type MenuItem } from "./menu";
import { ProblemCard } from "./problem-card";
import { ReplyTokens } from "./reply-tokens";
import { Calls, ToolCard } from "./tool-card";

interface Props {
  reply: ReplyMessage;
  isLast: boolean;
  /** It stands beside others, where there is room for less. */
  isBeside?: boolean;
}

export function Reply({ reply, isLast, isBeside = false }: Props) {
  const bench = useWorkbench();
  if (bench.view.editing.value === reply.id) {
    return <EditReply reply={reply} />;
  }
  const isWriting = reply.state === "writing";
  const showsTokens = bench.view.showsTokens(reply.id) && reply.tokens.length > 0;
  return (
    <article
      class={`message reply ${isWriting ? "is-writing" : ""} ${isLast ? "is-last" : ""}`}
      data-message={reply.id}
      tabIndex={-1}
      aria-label={t.reply.replied(reply.model)}
      aria-busy={isWriting}
    >
      <div class="reply-mark" aria-hidden="true">
        <Icon name="anvil" size={20} />
      </div>
      <div class="reply-body">
        {showsTokens ? (
          <ReplyTokens tokens={reply.tokens} onPick={(index, alternative) => bench.branch(reply.id, index, alternative)} />
        ) : (
          <Parts reply={reply} />
        )}
        {isWriting && reply.parts.length === 0 && !reply.calls?.length && <Pulse />}
        {reply.state === "done" && isEmpty(reply) && <p class="silent">{t.reply.silent}</p>}
        <Calls reply={reply} isLast={isLast} />
        {reply.sources && !isWriting && <Sources passages={reply.sources} />}
        <ProblemCard reply={reply} />
        <div class="message-foot">
          {reply.figures && reply.tokens.length > 0 && <Figures values={reply.figures} />}
          {!isWriting && reply.state !== "waiting" && <Actions reply={reply} isLast={isLast} isBeside={isBeside} />}
        </div>
      </div>
    </article>
  );
}

/** What can be done with a reply: what is done often as buttons, the rest in a menu; all of it where there is little room. */
function Actions({ reply, isLast, isBeside = false }: Props) {
  const bench = useWorkbench();
  const { id } = reply;
  const hasText = !isEmpty(reply);
  const tokens: MenuItem = { icon: "lens", label: t.reply.showTokens, run: () => bench.view.toggleTokens(id) };
  const goOn: MenuItem = { icon: "forward", label: t.reply.continue, run: () => bench.resume(id) };
  const copy: MenuItem = { icon: "copy", label: t.reply.copy, run: () => void bench.copy(plainText(reply)) };
  const again: MenuItem = { icon: "redo", label: t.reply.regenerate, run: () => bench.regenerate(id) };
  const good: MenuItem = { icon: "good", label: t.reply.good, run: () => bench.rate(reply, 1) };
  const bad: MenuItem = { icon: "bad", label: t.reply.bad, run: () => bench.rate(reply, -1) };
  const pressed = new Map<MenuItem, boolean>([
    [tokens, bench.view.showsTokens(id)],
    [good, reply.rating === 1],
    [bad, reply.rating === -1],
  ]);
  const often = [
    ...(hasText ? [copy] : []),
    ...(reply.state === "failed" ? [] : [again]),
    ...(reply.tokens.length > 0 ? [tokens] : []),
  ];
  const ratings = hasText ? [good, bad] : [];
  const seldom: MenuItem[] = [
    ...(bench.canResume(reply) ? [goOn] : []),
    ...(plainText(reply) !== "" && reply.parts.every(({ kind }) => kind === "text")
      ? [{ icon: "edit", label: t.reply.edit, run: () => (bench.view.editing.value = id) } as const]
      : []),
    { icon: "prompt", label: t.reply.showPrompt, run: () => bench.view.showPromptOf(id) },
    { icon: "link", label: t.message.copyLink, run: () => void bench.copyLink(id) },
    { icon: "trash", label: t.reply.delete, isDangerous: true, run: () => bench.deleteMessage(id) },
  ];
  const isFolded = isNarrow.value && !isLast && !isBeside;
  const shown = isFolded ? [] : isBeside ? ratings : [...often, ...ratings];
  const folded = [...[...often, ...ratings].filter((action) => !shown.includes(action)), ...seldom];
  return (
    <div class="actions">
      {!isBeside && <BranchStepper id={id} />}
      {shown.map((action) => (
        <IconButton
          key={action.label}
          icon={action.icon}
          label={action.label}
          onClick={action.run}
          {...(pressed.has(action) && { isPressed: pressed.get(action)! })}
        />
      ))}
      <Menu label={t.reply.actions} items={folded} />
    </div>
  );
}

/** The field to put other words into a reply, and have the model go on from them. */
function EditReply({ reply }: { reply: ReplyMessage }) {
  const bench = useWorkbench();
  return (
    <article class="message said is-reply" data-message={reply.id} tabIndex={-1} aria-label={t.reply.edited}>
      <EditField
        label={t.reply.edit}
        text={plainText(reply)}
        hint={t.reply.editHint}
        sends={[
          { label: t.reply.keep, run: (text) => bench.rewrite(reply.id, text, false) },
          { label: t.reply.goOnFromIt, run: (text) => bench.rewrite(reply.id, text, true) },
        ]}
      />
    </article>
  );
}

function Parts({ reply }: { reply: ReplyMessage }) {
  const { parts } = reply;
  if (reply.raw) {
    return (
      <p class="markdown raw" dir="auto">
        {plainText(reply)}
      </p>
    );
  }
  return (
    <>
      {parts.map((part, index) => {
        if (part.kind === "text") {
          return <Markdown key={index} text={part.text} />;
        }
        if (part.kind === "python") {
          const next = parts[index + 1];
          return <ToolCard key={index} expression={part.text} result={next?.kind === "output" ? next.text : null} />;
        }
        return null; // shown with its call
      })}
    </>
  );
}

/** The passages of documents that the model was given with the question. */
function Sources({ passages }: { passages: { name: string; text: string }[] }) {
  if (passages.length === 0) {
    return <p class="sources-none">{t.reply.noSources}</p>;
  }
  return (
    <section class="sources" aria-label={t.reply.sources}>
      {passages.map(({ name, text }, index) => (
        <details key={index} class="tool-card source">
          <summary>
            <Icon name="prompt" />
            <span class="tool-name" dir="auto">
              [{index + 1}] {name}
            </span>
            <span class="tool-chevron">
              <Icon name="down" size={16} />
            </span>
          </summary>
          <p dir="auto">{text}</p>
        </details>
      ))}
    </section>
  );
}

/** Shown until the first token comes. */
function Pulse() {
  return (
    <div class="pulse" role="img" aria-label={t.reply.reading}>
      <i />
      <i />
      <i />
    </div>
  );
}
