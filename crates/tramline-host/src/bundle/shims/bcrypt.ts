// `deno.land/x/bcrypt` over a package of plain JavaScript: the original starts a worker for every hash.
import bcrypt from "npm:bcryptjs@3.0.3";
const ROUNDS = 10;
export const genSalt = (rounds = ROUNDS): Promise<string> => bcrypt.genSalt(rounds);
export const genSaltSync = (rounds = ROUNDS): string => bcrypt.genSaltSync(rounds);
export const hash = (text: string, salt?: string): Promise<string> => bcrypt.hash(text, salt ?? ROUNDS);
export const hashSync = (text: string, salt?: string): string => bcrypt.hashSync(text, salt ?? ROUNDS);
export const compare = (text: string, hashed: string): Promise<boolean> => bcrypt.compare(text, hashed);
export const compareSync = (text: string, hashed: string): boolean => bcrypt.compareSync(text, hashed);
