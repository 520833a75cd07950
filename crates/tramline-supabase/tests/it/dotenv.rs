use tramline_supabase::dotenv::{self, Entry};

fn values(text: &str) -> Vec<(String, String)> {
    let entries = dotenv::parse(text).unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.name, entry.value.unwrap_or_else(|| "<none>".into())))
        .collect()
}

fn one(text: &str) -> String {
    values(text).pop().unwrap().1
}

#[test]
fn unquoted_values_keep_inner_blanks_and_lose_comments() {
    assert_eq!(one("A= hello big world  # said"), "hello big world");
    assert_eq!(one("A=x#y"), "x#y");
    assert_eq!(one("export A=1"), "1");
    assert_eq!(one("A="), "");
    assert_eq!(one("A=postgres://u:p@h/db?x=1"), "postgres://u:p@h/db?x=1");
}

#[test]
fn quotes_may_span_lines_and_double_ones_read_escapes() {
    assert_eq!(one("A='a # b\\n $X'"), "a # b\\n $X");
    assert_eq!(one("KEY=\"-----BEGIN\nabc\n-----END\" # pem\nB=2").as_str(), "2");
    assert_eq!(values("KEY=\"x\ny\"\nB=2")[0].1, "x\ny");
    assert_eq!(one(r#"A="say \"hi\"\n""#), "say \"hi\"\n");
}

#[test]
fn names_above_are_inserted_and_lower_case_dollars_stay() {
    assert_eq!(one("HOST=h\nURL=http://${HOST}/$HOST"), "http://h/h");
    assert_eq!(one("PASSWORD=pa$word$1"), "pa$word$1");
    assert_eq!(one(r"A=\$HOME"), "$HOME");
    assert_eq!(one("A=[$MISSING]"), "[]");
}

#[test]
fn entries_know_their_lines_and_bare_names_have_no_value() {
    let entries = dotenv::parse("# head\n\nA=\"x\ny\"\r\nBARE # needed\nB=1").unwrap();
    let expected = |name: &str, value: Option<&str>, line| Entry {
        name: name.into(),
        value: value.map(str::to_owned),
        line,
    };
    assert_eq!(
        entries,
        [
            expected("A", Some("x\ny"), 3),
            expected("BARE", None, 5),
            expected("B", Some("1"), 6)
        ]
    );
}

#[test]
fn errors_name_the_line() {
    assert_eq!(
        dotenv::parse("A=1\nB='x\n").unwrap_err(),
        (2, "the quote is not closed")
    );
    assert_eq!(
        dotenv::parse("A=1\n\n=x").unwrap_err(),
        (3, "expected NAME=value")
    );
    assert_eq!(
        dotenv::parse("two words=1").unwrap_err(),
        (1, "expected NAME=value")
    );
}
