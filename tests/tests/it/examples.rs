//! The examples that need nothing but themselves: each counts again what it should come to.

use std::path::PathBuf;
use std::process::Command;

use tidemill_tests::case::LIMIT;
use tidemill_tests::pipeline::Run;

fn runs(example: &str, told: &str) {
    let folder = std::env::var_os("TIDEMILL_TEST_EXAMPLES").map(PathBuf::from);
    let folder =
        folder.expect("TIDEMILL_TEST_EXAMPLES is not set: scripts/test sets it to the folder of the built examples");
    let ended = Run::start(Command::new(folder.join(example)))
        .unwrap()
        .wait(LIMIT)
        .unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.log_tail());
    assert!(ended.stdout.contains(told), "{}", ended.stdout);
}

#[test]
fn words_are_counted() {
    runs("word_count", " view");
}

#[test]
fn click_through_rates_are_counted() {
    runs("click_through", "clicks per view");
}

#[test]
fn sessions_hold_every_event() {
    runs("sessions", "50000 events");
}
