use serde_json::json;
use tramline_supabase::LocalKeys;
use tramline_supabase::config::AuthConfig;

/// The strings that every local stack prints.
const ANON: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJzdXBhYmFzZS1kZW1vIiwicm9sZSI6ImFub24iLCJleHAiOjE5ODM4MTI5OTZ9.CRXP1A7WOeoJeXxjNni43kdQwgnWNReilDMblYTn_I0";
const SERVICE: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJzdXBhYmFzZS1kZW1vIiwicm9sZSI6InNlcnZpY2Vfcm9sZSIsImV4cCI6MTk4MzgxMjk5Nn0.EGIM96RAZx35lJzdJsyH-qQwv8Hdp7fsn3W0YpN81IU";

#[test]
fn default_keys_are_the_published_local_ones() {
    let keys = LocalKeys::default();
    assert_eq!(keys.anon_key, ANON);
    assert_eq!(keys.service_role_key, SERVICE);
    assert_eq!(
        keys.publishable_key,
        "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH"
    );
    assert!(keys.has_published_values());
}

#[test]
fn another_secret_signs_other_role_tokens() {
    let auth = AuthConfig {
        jwt_secret: Some("another-secret-of-more-than-32-characters".into()),
        ..Default::default()
    };
    let keys = LocalKeys::from_config(&auth).unwrap();
    assert_ne!(keys.anon_key, ANON);
    assert_eq!(keys.anon_key.split('.').nth(1), ANON.split('.').nth(1));
    let given = AuthConfig {
        anon_key: Some("given".into()),
        ..auth
    };
    assert_eq!(LocalKeys::from_config(&given).unwrap().anon_key, "given");
}

#[test]
fn a_short_secret_is_refused() {
    let auth = AuthConfig {
        jwt_secret: Some("a-secret-of-thirty-one-letters-".into()),
        ..Default::default()
    };
    assert!(
        LocalKeys::from_config(&auth)
            .unwrap_err()
            .to_string()
            .contains("at least 32 characters")
    );
}

#[test]
fn minted_tokens_are_signed_with_the_secret() {
    let keys = LocalKeys::default();
    let token = keys.mint(&json!({ "sub": "u" }));
    assert_eq!(token.split('.').count(), 3);
    assert_eq!(token, keys.mint(&json!({ "sub": "u" })));
    assert_ne!(token, keys.mint(&json!({ "sub": "v" })));
}

#[test]
fn printing_keys_shows_no_secret() {
    let printed = format!("{:?}", LocalKeys::default());
    assert!(
        !printed.contains("super-secret") && !printed.contains("sb_secret"),
        "{printed}"
    );
}
