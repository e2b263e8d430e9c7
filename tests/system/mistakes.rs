//! x
use super::Test;
pub(crate) fn tests() -> Vec<Test> { vec![] }
