/** Numbers as the language that is shown writes them. */

import { language } from "./language";

const formats = new Map<string, Intl.NumberFormat>();

/** A number with so many digits after the point. */
export function fixed(value: number, digits = 0): string {
  const key = `${language.value}/${digits}`;
  const format =
    formats.get(key) ??
    new Intl.NumberFormat(language.value, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  formats.set(key, format);
  return format.format(value);
}

/** A number with so many digits that say something, and no zeros after them. */
export function significant(value: number, digits: number): string {
  return value.toLocaleString(language.value, { maximumSignificantDigits: digits });
}
