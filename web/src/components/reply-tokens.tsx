/**
 * A reply as the tokens it was made of, each tinted by how surprising it was to the model.
 *
 * One token at a time is in the tab order; arrows move among them, Enter goes into the alternatives, Esc comes back.
 */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { directionOf } from "../conversation/direction";
import type { Alternative, Token } from "../conversation/message";
import { isSpecial, probability } from "../conversation/tokens";
import { kindsOf } from "../markdown/spans";
import { t } from "../messages/language";
import { heatOf, inlineText, percent, spokenText } from "./token-text";
import { TokenInspector } from "./token-inspector";

const HIDE_MILLISECONDS = 260;
const MARGIN = 8;
const GAP = 4;
const BESIDE = 20;
const LEAST_HEIGHT = 120;

interface Props {
  tokens: readonly Token[];
  /** Goes on from an alternative; without it they can only be looked at. */
  onPick?: (index: number, alternative: Alternative) => void;
}

interface Shown {
  index: number;
  isPinned: boolean;
}

export function ReplyTokens({ tokens, onPick }: Props) {
  const [shown, setShown] = useState<Shown | null>(null);
  const [inTabOrder, setInTabOrder] = useState(0);
  const container = useRef<HTMLDivElement>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);

  // A panel that was pinned goes when anything else is pressed; scrolling, which a finger begins alike, leaves it.
  useEffect(() => {
    if (!shown?.isPinned) {
      return;
    }
    const onPressed = ({ target }: PointerEvent) => {
      const own = (target as Element).closest(".token, .inspector");
      if (!own || !container.current?.contains(own)) {
        setShown(null);
      }
    };
    document.addEventListener("pointerup", onPressed);
    return () => document.removeEventListener("pointerup", onPressed);
  }, [shown?.isPinned]);

  const chip = (index: number) => container.current?.querySelector<HTMLElement>(`[data-index="${index}"]`);
  const indexAt = (event: Event) => {
    const index = (event.target as Element).closest<HTMLElement>("[data-index]")?.dataset.index;
    return index === undefined ? null : Number(index);
  };
  const show = (index: number, isPinned: boolean) => {
    clearTimeout(timer.current);
    setShown({ index, isPinned });
  };

  function onPointerOver(event: PointerEvent) {
    const index = indexAt(event);
    clearTimeout(timer.current);
    if (index !== null && event.pointerType === "mouse" && !shown?.isPinned) {
      show(index, false);
    }
  }

  function onPointerLeave() {
    if (!shown?.isPinned) {
      timer.current = setTimeout(() => setShown(null), HIDE_MILLISECONDS);
    }
  }

  function onClick(event: MouseEvent) {
    const index = indexAt(event);
    if (index !== null) {
      const isAgain = shown?.isPinned && shown.index === index;
      clearTimeout(timer.current); // a finger that leaves the screen leaves the token, too
      setInTabOrder(index);
      setShown(isAgain ? null : { index, isPinned: true });
    }
  }

  function onKeyDown(event: KeyboardEvent) {
    const index = indexAt(event);
    if (event.key === "Escape" && shown) {
      event.stopPropagation();
      chip(shown.index)?.focus();
      setShown(null);
    } else if (index !== null) {
      const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tokens.length - 1 }[event.key];
      if (to !== undefined && to >= 0 && to < tokens.length) {
        event.preventDefault();
        setInTabOrder(to);
        show(to, false);
        chip(to)?.focus();
      } else if (event.key === "Enter" || event.key === "ArrowDown") {
        event.preventDefault();
        show(index, true);
        setTimeout(() => container.current?.querySelector<HTMLElement>(".alternative")?.focus());
      }
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const rows = [...container.current!.querySelectorAll<HTMLElement>(".alternative:enabled")];
      const at = rows.indexOf(document.activeElement as HTMLElement) + (event.key === "ArrowDown" ? 1 : -1);
      rows.at(at % rows.length)?.focus();
    }
  }

  function onFocusOut(event: FocusEvent) {
    if (!container.current?.contains(event.relatedTarget as Node | null)) {
      setShown((now) => (now?.isPinned ? now : null));
    }
  }

  const token = shown && tokens[shown.index];
  const kinds = useMemo(() => markdownKinds(tokens), [tokens]);
  return (
    <div
      ref={container}
      class="tokens"
      dir={directionOf(tokens.map(({ text }) => (isSpecial(text) ? "" : text)).join(""))}
      role="group"
      aria-label={t.inside.tokensOfReply}
      onPointerOver={onPointerOver}
      onPointerLeave={onPointerLeave}
      onClick={onClick}
      onKeyDown={onKeyDown}
      onFocusIn={(event) => setInTabOrder(indexAt(event) ?? inTabOrder)}
      onFocusOut={onFocusOut}
    >
      {tokens.map((each, index) => (
        <TokenChip key={index} token={each} index={index} markdown={kinds[index]!} isInTabOrder={index === inTabOrder} isShown={index === shown?.index} />
      ))}
      {token && (
        <div
          class="inspector"
          dir="ltr"
          role="dialog"
          aria-label={t.inside.insteadOf(spokenText(token.text, token.bytes))}
          ref={(panel) => void (panel && place(panel, chip(shown.index)))}
        >
          <TokenInspector
            token={token}
            onPick={
              onPick &&
              ((alternative) => {
                setShown(null);
                onPick(shown.index, alternative);
              })
            }
          />
        </div>
      )}
    </div>
  );
}

/** What Markdown makes of each token: they keep its weight and size, and its signs stay as the tokens that they are. */
function markdownKinds(tokens: readonly Token[]): string[] {
  try {
    return kindsOf(tokens.map(({ text, origin }) => (origin === "given" || isSpecial(text) ? "" : text)));
  } catch {
    return tokens.map(() => "");
  }
}

interface ChipProps {
  token: Token;
  index: number;
  markdown: string;
  isInTabOrder: boolean;
  isShown: boolean;
}

function TokenChip({ token, index, markdown, isInTabOrder, isShown }: ChipProps) {
  const chance = probability(token);
  const kind = token.origin === "given" || token.origin === "written" ? "is-given" : isSpecial(token.text) ? "is-special" : "";
  const breaks = token.origin === "given" ? 0 : (token.text.match(/\n/g)?.length ?? 0);
  return (
    <>
      <button
        type="button"
        class={`token ${kind} ${markdown} ${token.origin === "picked" ? "is-picked" : ""} ${isShown ? "is-shown" : ""}`}
        data-index={index}
        tabIndex={isInTabOrder ? 0 : -1}
        aria-label={`${spokenText(token.text, token.bytes)}${chance === null ? "" : `, ${percent(chance)}`}`}
        style={{ "--heat": chance === null ? 0 : heatOf(chance) }}
      >
        {inlineText(token.text, token.bytes)}
      </button>
      {Array.from({ length: breaks }, (_, line) => (
        <br key={line} />
      ))}
    </>
  );
}

/**
 * Put the panel beside the conversation where there is room for it; else under its token, or over it where there is more
 * room, and within the sides of the reply. On a narrow screen the styles put it at the end of the page that the token is
 * not at.
 */
function place(panel: HTMLElement, token: HTMLElement | null | undefined): void {
  const container = panel.parentElement;
  if (!token || !container) {
    return;
  }
  const frame = container.closest(".transcript")?.getBoundingClientRect();
  const at = token.getBoundingClientRect();
  const base = container.getBoundingClientRect();
  const beside = base.right + BESIDE;
  const [top, bottom] = [frame?.top ?? 0, frame?.bottom ?? innerHeight];
  panel.style.maxHeight = "";
  if (beside + panel.offsetWidth + MARGIN <= (frame?.right ?? innerWidth) - MARGIN) {
    panel.style.maxHeight = `${bottom - top - 2 * MARGIN}px`;
    const highest = Math.min(at.top, bottom - MARGIN - panel.offsetHeight);
    panel.style.left = `${beside - base.left}px`;
    panel.style.top = `${Math.max(highest, top + MARGIN) - base.top}px`;
    panel.style.bottom = "auto";
    return;
  }
  const roomBelow = bottom - at.bottom - MARGIN;
  const roomAbove = at.top - top - MARGIN;
  const isAbove = panel.offsetHeight > roomBelow && roomAbove > roomBelow;
  // In a low window it scrolls within itself; with hardly any room it may be laid over more than the reply.
  const room = Math.max(isAbove ? roomAbove : roomBelow, LEAST_HEIGHT) - GAP;
  panel.style.maxHeight = `${room}px`;
  const left = Math.min(at.left - base.left, container.offsetWidth - panel.offsetWidth);
  panel.classList.toggle("is-at-top", at.top > innerHeight / 2);
  panel.style.left = `${Math.max(0, left)}px`;
  panel.style.top = isAbove ? "auto" : `${at.bottom - base.top + GAP}px`;
  panel.style.bottom = isAbove ? `${base.bottom - at.top + GAP}px` : "auto";
}
