import type { ComponentChildren } from "preact";
import { Icon, type IconName } from "./icon";

interface Props {
  icon: IconName;
  /** What it does: its name for screen readers, and its tooltip. */
  label: string;
  onClick: () => void;
  /** For a button that is on or off. */
  isPressed?: boolean;
  isDisabled?: boolean;
  size?: number;
  class?: string;
  children?: ComponentChildren;
}

export function IconButton({ icon, label, onClick, isPressed, isDisabled, size, class: kind, children }: Props) {
  return (
    <button
      type="button"
      class={`icon-button ${kind ?? ""}`}
      aria-label={label}
      title={label}
      disabled={isDisabled}
      onClick={onClick}
      {...(isPressed !== undefined && { "aria-pressed": isPressed })}
    >
      <Icon name={icon} {...(size && { size })} />
      {children}
    </button>
  );
}
