use super::*;
use proptest::prelude::*;
use serde_json::json;

fn view<'a>(name: &'a str, status: StepStatus, output: &'a Value) -> StepView<'a> {
    StepView {
        name,
        status,
        output,
        visible: true,
    }
}

/// Evaluates against one fixed scope: an input, a finished step, a failed one and one that may not be seen.
fn eval(source: &str) -> Result<Value, RenderError> {
    let input = json!({
        "proposal_id": "p-1", "amount": 100, "price": 1.5, "vip": false, "nothing": null, "type": "stay",
        "guest": { "name": "Ada", "tags": ["a", "b"] },
        "items": [{ "id": 1, "ok": true }, { "id": 2, "ok": false }],
        "shadowed": "input", "big": u64::MAX,
    });
    let run = json!({ "id": "r-1", "attempt": 2 });
    let thread = json!({ "success": true, "data": { "thread_id": "t-1", "shadowed": "thread" } });
    let listing = json!({ "title": "Flat", "shadowed": "listing" });
    let (null, hidden) = (Value::Null, json!({ "secret": 1 }));
    let steps = [
        view("create-thread", StepStatus::Completed, &thread),
        view("broken", StepStatus::Failed, &null),
        view("listing", StepStatus::Completed, &listing),
        StepView {
            visible: false,
            ..view("sibling", StepStatus::Completed, &hidden)
        },
    ];
    let scope = Scope {
        input: &input,
        run: &run,
        steps: &steps,
    };
    Expr::compile(source, "here")
        .unwrap_or_else(|e| panic!("{source}: {e}"))
        .eval(&scope)
}

fn value(source: &str) -> Value {
    eval(source).unwrap_or_else(|e| panic!("{source}: {e:?}"))
}

fn problem(source: &str) -> String {
    match Expr::compile(source, "here") {
        Ok(expr) => panic!("{source} compiled: {expr:?}"),
        Err(problem) => problem.message,
    }
}

#[test]
fn compiled_expressions_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Expr>();
    shared::<crate::template::Template>();
    shared::<crate::definition::Workflow>();
}

#[test]
fn plain_names_are_read_without_cel() {
    for (source, expected) in [
        ("proposal_id", json!("p-1")),
        (" input.guest.name ", json!("Ada")),
        ("guest.tags.1", json!("b")),
        ("guest.tags[1]", json!("b")),
        ("input[\"guest\"]['name']", json!("Ada")),
        ("nothing", json!(null)),
        ("type", json!("stay")),
        ("run.id", json!("r-1")),
        ("steps.create-thread.output.data.thread_id", json!("t-1")),
        ("steps[\"create-thread\"].status", json!("completed")),
        ("steps.broken.status", json!("failed")),
        ("steps.broken.output", json!(null)),
        (
            "steps.listing",
            json!({ "status": "completed", "output": { "title": "Flat", "shadowed": "listing" } }),
        ),
    ] {
        assert!(Expr::compile(source, "here").unwrap().is_plain_name(), "{source}");
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn the_same_names_mean_the_same_inside_longer_expressions() {
    for (source, expected) in [
        ("proposal_id + \"!\"", json!("p-1!")),
        ("input.guest.name == 'Ada'", json!(true)),
        ("guest.tags[0] + guest.tags[1]", json!("ab")),
        (
            "steps[\"create-thread\"].output.data.thread_id + ''",
            json!("t-1"),
        ),
        ("steps['broken'].status == \"failed\"", json!(true)),
        ("run.attempt + 1", json!(3)),
        ("nothing == null", json!(true)),
        ("size(steps) == 3", json!(true)),
        ("type == 'stay'", json!(true)),
        ("input.type + title", json!("stayFlat")),
    ] {
        assert!(
            !Expr::compile(source, "here").unwrap().is_plain_name(),
            "{source}"
        );
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn flat_names_are_those_of_later_finishers_first_then_of_the_input() {
    assert_eq!(value("shadowed"), "listing");
    assert_eq!(value("thread_id"), "t-1");
    assert_eq!(value("title"), "Flat");
    assert_eq!(value("amount"), 100);
    // an envelope with `data` contributes the data, not itself
    assert_eq!(eval("success").unwrap_err().code, RenderCode::MissingVariable);
}

#[test]
fn steps_that_are_no_ancestors_read_as_absent() {
    for source in [
        "secret",
        "steps.sibling",
        "steps.sibling.status",
        "steps.sibling.output.secret",
    ] {
        assert_eq!(
            eval(source).unwrap_err().code,
            RenderCode::MissingVariable,
            "{source}"
        );
    }
    assert_eq!(value("has(steps.sibling.output)"), false);
    assert_eq!(value("'sibling' in steps"), false);
}

#[test]
fn cel_operators_work_on_json_values() {
    for (source, expected) in [
        ("amount > 50 && !vip", json!(true)),
        ("price > 1", json!(true)),
        ("amount == 100.0", json!(true)),
        ("vip ? 'yes' : 'no'", json!("no")),
        ("guest.tags.map(t, t + '!')", json!(["a!", "b!"])),
        ("items.filter(i, i.ok).map(i, i.id)", json!([1])),
        ("items.exists(i, i.id == 2)", json!(true)),
        ("items.all(i, has(i.id))", json!(true)),
        ("items.exists_one(i, i.ok)", json!(true)),
        (
            "items.map(i, {'id': i.id, 'guest': guest.name})",
            json!([{"id": 1, "guest": "Ada"}, {"id": 2, "guest": "Ada"}]),
        ),
        (
            "items.map(i, guest.tags.map(t, t + string(i.id)))",
            json!([["a1", "b1"], ["a2", "b2"]]),
        ),
        ("'a' in guest.tags", json!(true)),
        ("'name' in guest", json!(true)),
        ("[1, 2] + [3]", json!([1, 2, 3])),
        ("{'a': {'b': [1]}}", json!({"a": {"b": [1]}})),
        (
            "proposal_id.startsWith('p-') && proposal_id.endsWith('1') && proposal_id.contains('-')",
            json!(true),
        ),
        ("size(guest.tags) + guest.tags.size()", json!(4)),
        ("string(amount) + 'EUR'", json!("100EUR")),
        ("int('7') * 2", json!(14)),
        ("double(amount) / 8.0", json!(12.5)),
        ("type(amount) == int", json!(true)),
        ("7 / 2", json!(3)),
        ("big", json!(u64::MAX)),
        ("[big]", json!([u64::MAX])),
        ("true", json!(true)),
        ("guest.?mail.orValue('none')", json!("none")),
        ("optional.of(amount).orValue(0)", json!(100)),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn has_asks_for_flat_names_fields_and_steps() {
    for (source, expected) in [
        ("has(proposal_id)", true),
        ("has(guest_mail)", false),
        ("has(nothing)", true),
        ("has(guest.name)", true),
        ("has(guest.mail)", false),
        ("has(guest.mail.domain)", false),
        ("has(input.guest.name)", true),
        ("has(steps.broken.output.id)", false),
        ("has(steps['create-thread'].output)", true),
        ("has(type) && !has(string)", true),
        ("has ( proposal_id )", true),
        ("!has(x) || x == 'has(y)'", true),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
    assert_eq!(value("\"has(\" + 'has(\\'x'"), "has(has('x");
}

#[test]
fn default_stands_in_for_absent_and_null() {
    for (source, expected) in [
        ("default(proposal_id, 'x')", json!("p-1")),
        ("default(guest_mail, 'x')", json!("x")),
        ("default(nothing, 'x')", json!("x")),
        ("default(guest.mail.domain, 'x')", json!("x")),
        ("default(vip, true)", json!(false)),
        ("default(a, default(b, amount))", json!(100)),
        ("items.map(i, default(i.note, '-'))", json!(["-", "-"])),
        ("default(steps.broken.output.id, 0)", json!(0)),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn a_missing_name_is_reported_in_full() {
    for (source, name) in [
        ("guest_mail", "guest_mail"),
        ("input.guest.mail", "input.guest.mail"),
        ("guest.mail.domain", "guest.mail.domain"),
        ("guest.mail.domain + ''", "guest.mail.domain"),
        (
            "steps[\"create-thread\"].output.nope",
            "steps.create-thread.output.nope",
        ),
        ("vip || input.deep.er", "input.deep.er"),
        ("items[7].id", "items[7].id"),
        ("steps.create-thread.error", "steps.create-thread.error"),
        ("items.map(i, i.nope)", "nope"),
    ] {
        let error = eval(source).unwrap_err();
        assert_eq!(
            (error.code, error.name.as_str(), error.place.as_str()),
            (RenderCode::MissingVariable, name, "here")
        );
    }
    assert_eq!(
        eval("guest_mail").unwrap_err().message,
        "read `guest_mail`: neither the input nor a finished step provides it; pass it, or write default(guest_mail, …)"
    );
}

#[test]
fn failures_say_what_went_wrong_and_never_a_value() {
    for (source, words) in [
        ("amount / 0", "division by zero"),
        ("amount % 0", "division by zero"),
        ("9223372036854775807 + amount", "a number grows out of range"),
        ("guest.name + 1", "the operator `add` does not fit these types"),
        (
            "guest.name > 1",
            "found no matching overload for '_>_' applied to '(string, int)'",
        ),
        ("int(guest.name)", "`int` refuses its argument"),
        ("guest.name ? 1 : 2", "a value is string where bool is expected"),
        (
            "type(amount)",
            "it gives a value of type `type`, which is no JSON",
        ),
        (
            "1.0 / 0.0",
            "it gives a number that JSON cannot hold, which is no JSON",
        ),
    ] {
        let error = eval(source).unwrap_err();
        assert_eq!(error.code, RenderCode::ExpressionFailed, "{source}");
        assert_eq!(error.message, format!("evaluate `{source}`: {words}"));
        assert!(!error.message.contains("Ada"), "{source}");
    }
}

#[test]
fn conditions_must_be_true_or_false() {
    let input = json!({ "yes": true, "word": "x" });
    let scope = Scope {
        input: &input,
        run: &Value::Null,
        steps: &[],
    };
    let check = |source| Expr::compile(source, "steps[0].when").unwrap().eval_bool(&scope);
    assert_eq!(check("yes"), Ok(true));
    assert_eq!(check("yes && word == 'y'"), Ok(false));
    for source in ["word", "word + ''"] {
        let error = check(source).unwrap_err();
        assert_eq!(error.code, RenderCode::NotABoolean);
        assert_eq!(
            error.message,
            format!("evaluate the condition `{source}`: it gives a string, not true or false")
        );
    }
    assert_eq!(check("absent").unwrap_err().code, RenderCode::MissingVariable);
}

#[test]
fn what_cannot_work_is_refused_when_compiled() {
    assert_eq!(problem("  "), "the expression is empty");
    assert!(problem("a +").starts_with("read `a +` as an expression: "));
    assert!(
        problem("amount > > 1").contains("(column 10)"),
        "{}",
        problem("amount > > 1")
    );
    assert_eq!(
        problem("sice(guest.tags)"),
        "there is no function `sice`: did you mean `size`?"
    );
    assert_eq!(problem("guest.name.lower()"), "there is no function `lower`");
    assert_eq!(
        problem("defualt(a, 1)"),
        "there is no function `defualt`: did you mean `default`?"
    );
    assert_eq!(
        problem("has(1 + 1)"),
        "has() takes a name or a field, such as has(guest_name) or has(input.guest.name)"
    );
    assert_eq!(problem("has(a, b)"), "has() takes one name");
    assert_eq!(problem("default(a)"), "default() takes a name and a fallback");
    assert_eq!(
        problem("default('a', 1)"),
        "default() takes a name first, such as default(guest_name, \"guest\")"
    );
    assert_eq!(
        problem("Guest{name: 'x'}"),
        "there is no message type `Guest`: write an object"
    );
    assert!(problem(&"a+".repeat(3_000)).contains("6000 bytes, the limit is 4096"));
    assert!(!problem(&"(".repeat(500)).is_empty());
    assert!(!problem("has(").contains("h_s"));
}

#[test]
fn nesting_is_bounded_by_refusal_and_never_by_the_stack() {
    type Chain = fn(usize) -> String;
    let chains: [(&str, Chain); 7] = [
        ("brackets", |n| format!("{}1{}", "[".repeat(n), "]".repeat(n))),
        ("sum", |n| format!("1{}", " + 1".repeat(n))),
        ("choice", |n| format!("{}1", "true ? 1 : ".repeat(n))),
        ("calls", |n| format!("'x'{}", ".size()".repeat(n))),
        ("arguments", |n| {
            format!("{}1{}", "string(".repeat(n), ")".repeat(n))
        }),
        ("objects", |n| format!("{}1{}", "{'a': ".repeat(n), "}".repeat(n))),
        ("open", |n| "(".repeat(n)),
    ];
    for (name, chain) in chains {
        for n in [60, 95, 200, 450] {
            assert!(Expr::compile(&chain(n), "here").is_err(), "{name} {n}");
        }
        if name != "open" {
            let expr = Expr::compile(&chain(35), "here").unwrap_or_else(|e| panic!("{name}: {e}"));
            let _ = expr.eval(&Scope {
                input: &Value::Null,
                run: &Value::Null,
                steps: &[],
            });
        }
    }
    // what does not nest when evaluated may be as long as the source
    assert!(Expr::compile(&format!("true{}", " && true".repeat(400)), "here").is_ok());
    assert!(Expr::compile(&format!("true ? a{} : 1", ".b".repeat(400)), "here").is_ok());
}

#[test]
fn names_tell_what_an_expression_needs() {
    let needed = |source: &str| -> Vec<String> {
        let names = Expr::compile(source, "here").unwrap().names();
        names
            .into_iter()
            .filter(|name| name.needed)
            .map(|name| match name.kind {
                NameKind::Flat(name) => name,
                NameKind::Step(name) => format!("steps.{name}"),
                other => format!("{other:?}").to_lowercase(),
            })
            .collect()
    };
    assert_eq!(needed("a.b.c"), ["a"]);
    assert_eq!(needed("a + b.c + input.d + run.id"), ["a", "b", "input", "run"]);
    assert_eq!(
        needed("steps.x.output + steps['y-z'].output"),
        ["steps.x", "steps.y-z"]
    );
    assert_eq!(needed("has(a) ? a : b"), [] as [&str; 0]);
    assert_eq!(needed("default(a, b)"), [] as [&str; 0]);
    assert_eq!(needed("a ? b : c"), ["a"]);
    // either side of a logical operator may decide alone
    assert_eq!(needed("a && b || c"), [] as [&str; 0]);
    assert_eq!(needed("list_of.map(i, i.x + b)"), ["list_of"]);
    assert_eq!(needed("[a, {'k': b}]"), ["a", "b"]);
    assert_eq!(needed("a.startsWith(b)"), ["a", "b"]);
}

#[test]
fn loops_and_results_are_bounded() {
    let run = Value::Null;
    let evaluate = |source: &str, input: &Value| {
        Expr::compile(source, "here").unwrap().eval(&Scope {
            input,
            run: &run,
            steps: &[],
        })
    };
    let many = json!({ "n": vec![1; 1_000], "word": "x".repeat(10_000) });
    assert_eq!(evaluate("size(n.filter(a, a == 1))", &many), Ok(json!(1_000)));
    for source in [
        "size(n.map(a, n.map(b, a + b)))",
        "size(n.filter(a, n.exists(b, b == 2)))",
        "n.all(a, n.all(b, b == 1))",
        "n.exists(a, n.exists_one(b, b == 2))",
        "size(n.map(a, a == 1, n.map(b, b)))",
    ] {
        let error = evaluate(source, &many).unwrap_err();
        assert_eq!(error.code, RenderCode::ExpressionFailed, "{source}");
        assert!(
            error.message.ends_with("its loops take more than 100000 turns"),
            "{}",
            error.message
        );
    }
    assert_eq!(
        evaluate("n.map(a, word)", &many).unwrap_err().code,
        RenderCode::TooLarge
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Text that often is an expression.
fn expression() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        4 => "[a-d]",
        2 => prop_oneof![Just("input"), Just("steps.a.output"), Just("run"), Just("has("), Just("default("), Just("size(")].prop_map(str::to_owned),
        3 => prop_oneof![Just("."), Just(".?"), Just("["), Just("]"), Just("("), Just(")"), Just("{"), Just("}"), Just(","), Just(":"), Just("?")].prop_map(str::to_owned),
        3 => prop_oneof![Just("+"), Just("-"), Just("*"), Just("/"), Just("=="), Just("<"), Just("&&"), Just("||"), Just("!"), Just(" in ")].prop_map(str::to_owned),
        2 => prop_oneof![Just("1"), Just("0"), Just("2.5"), Just("'x'"), Just("\"y\""), Just("null"), Just("true"), Just("1u"), Just("b'z'"), Just("int"), Just("type(")].prop_map(str::to_owned),
        1 => prop_oneof![Just(".map(a, a)"), Just(".all(x, x.a)"), Just(".filter(b, true)"), Just(".exists(c, c == d)"), Just(".size()"), Just("dyn("), Just("optional.of(")].prop_map(str::to_owned),
        1 => any::<String>().prop_map(|s| s.chars().take(3).collect()),
    ];
    proptest::collection::vec(token, 1..12).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn random_expressions_are_refused_or_evaluated_without_a_panic(source in expression(), input in any_json(), output in any_json()) {
        if let Ok(expr) = Expr::compile(&source, "here") {
            let steps = [view("a", StepStatus::Completed, &output)];
            let _ = expr.eval(&Scope { input: &input, run: &output, steps: &steps });
            let _ = expr.names();
        }
    }

    /// The fast path and CEL agree wherever both can read a name.
    #[test]
    fn a_plain_name_is_what_cel_reads(
        path in proptest::collection::vec("[a-d]", 1..4), input in any_json(), output in any_json(),
    ) {
        let name = path.join(".");
        let steps = [view("a", StepStatus::Completed, &output)];
        let scope = Scope { input: &input, run: &Value::Null, steps: &steps };
        let plain = Expr::compile(&name, "here").unwrap();
        let cel = Expr::compile(&format!("true ? {name} : 0"), "here").unwrap();
        prop_assert!(plain.is_plain_name() && !cel.is_plain_name());
        let by_cel = cel.eval(&scope);
        match plain.eval(&scope) {
            Ok(value) => prop_assert_eq!(by_cel, Ok(value)),
            Err(error) => prop_assert_eq!(by_cel.unwrap_err().code, error.code),
        }
    }
}
