/** A field for several lines that is as high as what is in it, up to the limit that the styles set. */

import type { RefObject } from "preact";
import { useLayoutEffect } from "preact/hooks";

interface Props {
  innerRef: RefObject<HTMLTextAreaElement | null>;
  label: string;
  value: string;
  onInput: (value: string) => void;
  onKeyDown?: (event: KeyboardEvent) => void;
  id?: string;
  placeholder?: string;
  /** Of a list that the field chooses from: its id, and that of the entry that is marked. */
  list?: { id: string; active: string | undefined } | null;
}

export function GrowingField({ innerRef, label, value, onInput, onKeyDown, id, placeholder, list }: Props) {
  useLayoutEffect(() => {
    const field = innerRef.current!;
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight}px`;
  }, [value]);
  return (
    <textarea
      ref={innerRef}
      id={id}
      class="growing-field"
      dir="auto"
      rows={1}
      aria-label={label}
      placeholder={placeholder}
      value={value}
      onInput={(event) => onInput(event.currentTarget.value)}
      onKeyDown={onKeyDown}
      {...(list && {
        "aria-autocomplete": "list",
        "aria-controls": list.id,
        "aria-activedescendant": list.active,
      })}
    />
  );
}
