/** Patterns of the values of `format` that are held. Days are those that every year has: the 29th of February is left out. */

const month31 = '(0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])'
const month30 = '(0[469]|11)-(0[1-9]|[12]\\d|30)'
const february = '02-(0[1-9]|1\\d|2[0-8])'
const date = `\\d{4}-(${month31}|${month30}|${february})`
const time = '([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)'
const byte = '(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)'

/** Sources: RFC 3339 (dates and times), RFC 9562 (uuid), RFC 2673 (ipv4). */
export const formats: Readonly<Record<string, string>> = {
  date: `^${date}$`,
  time: `^${time}$`,
  'date-time': `^${date}T${time}$`,
  uuid: '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$',
  ipv4: `^${byte}(\\.${byte}){3}$`
}
