/**
 * A button that opens a list of actions. The browser's popover closes it on Esc or a click elsewhere and gives the
 * focus back; arrows, Home and End move through it.
 */

import { useId, useRef } from "preact/hooks";
import { Icon, type IconName } from "./icon";

export interface MenuItem {
  icon: IconName;
  label: string;
  run: () => void;
  isDangerous?: boolean;
}

const GAP = 6;

interface Props {
  label: string;
  items: MenuItem[];
  icon?: IconName;
  /** Whether something in it is not as it is by default. */
  isMarked?: boolean;
}

export function Menu({ label, items, icon = "more", isMarked = false }: Props) {
  const id = useId();
  const list = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);

  function place() {
    const menu = list.current!;
    const at = button.current!.getBoundingClientRect();
    const fitsBelow = at.bottom + GAP + menu.offsetHeight < innerHeight;
    menu.style.top = `${fitsBelow ? at.bottom + GAP : Math.max(GAP, at.top - GAP - menu.offsetHeight)}px`;
    menu.style.left = `${Math.max(GAP, Math.min(at.right - menu.offsetWidth, innerWidth - menu.offsetWidth - GAP))}px`;
  }

  function onToggle(event: { newState: string }) {
    const isOpen = event.newState === "open";
    button.current?.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) {
      place();
      list.current?.querySelector("button")?.focus();
    }
  }

  function onKeyDown(event: KeyboardEvent) {
    const entries = [...list.current!.querySelectorAll("button")];
    const at = entries.indexOf(document.activeElement as HTMLButtonElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: entries.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      entries.at(to % entries.length)?.focus();
    } else if (event.key === "Tab") {
      list.current?.hidePopover();
    }
    event.stopPropagation();
  }

  return (
    <>
      <button
        ref={button}
        type="button"
        class={`icon-button menu-button ${isMarked ? "is-marked" : ""}`}
        aria-label={label}
        title={label}
        aria-haspopup="menu"
        aria-expanded="false"
        aria-controls={id}
        onClick={() => list.current?.togglePopover()}
      >
        <Icon name={icon} />
      </button>
      <div ref={list} id={id} class="menu" role="menu" aria-label={label} popover="auto" onToggle={onToggle} onKeyDown={onKeyDown}>
        {items.map((item) => (
          <button
            key={item.label}
            type="button"
            role="menuitem"
            tabIndex={-1}
            class={item.isDangerous ? "is-dangerous" : ""}
            onClick={() => {
              list.current?.hidePopover();
              item.run();
            }}
          >
            <Icon name={item.icon} size={17} />
            {item.label}
          </button>
        ))}
      </div>
    </>
  );
}
