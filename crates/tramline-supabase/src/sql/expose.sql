-- Default privileges of the platform for what this role makes in public: usable by the API's roles, with row level
-- security deciding about rows.
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role
