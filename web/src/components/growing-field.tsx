/** A field for several lines that is as high as what is in it, up to the limit that the styles set. */

import type { RefObject } from "preact";
import { useLayoutEffect } from "preact/hooks";

/** Longer texts fill the field in any case. */
const MOST_MEASURED = 20_000;

interface Props {
  innerRef: RefObject<HTMLTextAreaElement | null>;
  label: string;
  value: string;
  onInput: (value: string) => void;
  onKeyDown?: (event: KeyboardEvent) => void;
  onPaste?: (event: ClipboardEvent) => void;
  id?: string;
  placeholder?: string;
  /** Of a list that the field chooses from: its id, and that of the entry that is marked. */
  list?: { id: string; active: string | undefined } | null;
}

export function GrowingField({ innerRef, label, value, onInput, onKeyDown, onPaste, id, placeholder, list }: Props) {
  useLayoutEffect(() => {
    const field = innerRef.current!;
    if (value.length > MOST_MEASURED) {
      field.style.height = "100dvh"; // as high as the styles allow: measuring would lay all of it out twice
      return;
    }
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
      onPaste={onPaste}
      {...(list && {
        "aria-autocomplete": "list",
        "aria-controls": list.id,
        "aria-activedescendant": list.active,
      })}
    />
  );
}
