use axum::{Router, extract::Request};
use base64::Engine as _;
use tramline_supabase::{VerifiedClaims, auth, config::ApiConfig, rest::Rest, surface};
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let db = tramline_testkit::test_db_with("store", async |url: String| { tramline_store::migrate(&url).await?; Ok(()) }).await;
    surface::install(db.url(), surface::NewTables::Exposed).await?;
    db.connect().await.batch_execute(&std::fs::read_to_string(std::env::args().nth(1).unwrap())?).await?;
    let rest = Rest::start(db.url(), &ApiConfig::default()).await?;
    let layer = axum::middleware::map_request(|mut r: Request| async move {
        let token = r.headers().get("authorization").and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer ")).map(str::to_owned);
        if let Some(p) = token.as_deref().and_then(|t| t.split('.').nth(1)).and_then(|p| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(p).ok()) {
            r.extensions_mut().insert(VerifiedClaims(serde_json::from_slice(&p).unwrap()));
        }
        r
    });
    let app = Router::new().nest("/rest/v1", rest.router()).nest("/auth/v1", auth::auth_router(db.url())?).layer(layer);
    let l = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", l.local_addr()?);
    axum::serve(l, app).await?;
    Ok(())
}
