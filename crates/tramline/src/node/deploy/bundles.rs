//! Bundles of deployed versions, fetched from the database by the nodes that lack them.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tramline_host::{Package, Packages};
use tramline_store::{Db, function_versions};

use crate::exit::chain;

/// The host's way to the database.
pub struct StoredPackages(pub Db);

impl std::fmt::Debug for StoredPackages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoredPackages")
    }
}

impl Packages for StoredPackages {
    fn fetch(&self, function: &str, version: i32) -> BoxFuture<'static, Result<Package, String>> {
        let (db, function) = (self.0.clone(), function.to_owned());
        async move {
            match function_versions::package(&db, &function, version).await {
                Ok(Some(package)) => Ok(Package {
                    bundle: package.bundle,
                    static_files: package.static_files,
                }),
                Ok(None) => Err("it is not kept any more; deploy it again".to_owned()),
                Err(error) => Err(chain(&error)),
            }
        }
        .boxed()
    }
}
