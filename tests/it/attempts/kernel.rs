//! The kernel: namespaces, mounts, devices, its interfaces, and rights that uid 1000 does not have.

use super::group;
use crate::need_engine;

const NAMESPACES: &str = include_str!("namespaces.py");

const INTERFACES: &str = include_str!("interfaces.py");

const RIGHTS: &str = include_str!("rights.py");

#[tokio::test]
async fn namespaces_and_mounts_are_refused() {
    need_engine!();
    group(NAMESPACES, "").await;
}

#[tokio::test]
async fn the_kernels_interfaces_are_refused() {
    need_engine!();
    group(INTERFACES, "").await;
}

#[tokio::test]
async fn rights_cannot_be_had() {
    need_engine!();
    group(RIGHTS, "").await;
}
