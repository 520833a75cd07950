const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-([0-9a-f])[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
export const NIL_UUID = "00000000-0000-0000-0000-000000000000";
export const validate = (text: string): boolean => UUID.test(text);
export const version = (text: string): number => parseInt(UUID.exec(text)?.[1] ?? "0", 16);
export const v4 = {
  generate: (): string => crypto.randomUUID(),
  validate: (text: string): boolean => version(text) === 4,
};
