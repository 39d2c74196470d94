use super::*;

fn operation(name: &str, spec: &str) -> String {
    format!("apiVersion: mainstay.dev/v1alpha1\nkind: Operation\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn operations_are_cancelled_and_replayed() {
    let server = server();
    apply(&server, &operation("later", "{handler: noop, runAt: '2999-01-01T00:00:00Z'}")).ok();
    assert!(run(&server, "get ops").ok().contains("NotDue"));
    run(&server, "replay operation later").failed(4);
    assert_eq!(run(&server, "cancel operation later").ok(), "operation.mainstay.dev/later cancelling\n");
    apply(&server, &operation("nobodys", "{handler: nobody}")).ok();
    let dead = |attempts: u64| {
        let wanted = |status: &Value| status["phase"] == "Dead" && status["attempts"] == attempts;
        let look = || json(&run(&server, "get op nobodys -o json").ok())["status"].clone();
        // Each look is a command of its own: some milliseconds.
        assert!((0..3_000).any(|_| wanted(&look())), "{}", look());
    };
    dead(1);
    assert!(run(&server, "cancel op/nobodys").failed(4).contains("it has ended already"));
    assert_eq!(run(&server, "replay op/nobodys").ok(), "operation.mainstay.dev/nobodys replayed\n");
    dead(2);
    let described = run(&server, "describe operation nobodys").ok();
    assert!(described.contains("UnknownHandler") && described.contains("Replays:"), "{described}");
    assert!(run(&server, "replay op later nobodys none").failed(3).contains("none"));
    assert_eq!(run(&server, "delete op nobodys").ok(), "operation.mainstay.dev/nobodys deleted\n");
    run(&server, "cancel operation").failed(2);
    run(&server, "replay session x").failed(2);
}
