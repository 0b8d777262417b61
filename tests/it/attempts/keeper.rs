//! The keeper and init: their memory, stdio, ports, signals, scheduling.

use super::group;
use crate::need_engine;

const OTHERS: &str = include_str!("keeper.py");

#[tokio::test]
async fn the_keeper_and_init_are_out_of_reach() {
    need_engine!();
    group(OTHERS, "").await;
}
