// The template language against Jinja2 in transformers' setting; cases from tests/golden/make_chat_cases.py.
#include <gtest/gtest.h>

#include "data/jinja/template.h"
#include "data/tokenizers/chat_template.h"
#include "parallel/base/errors.h"
#include "parallel/base/files.h"

namespace cadre::data::jinja {
namespace {

constexpr TemplateOptions kOptions = {.lexer = {.trim_blocks = true, .lstrip_blocks = true},
                                      .strict_undefined = false};

std::string render(const std::string& source, const Map& variables,
                   const TemplateOptions& options = kOptions) {
  return Template(source, options, "test").render(variables).bytes;
}

std::string error_of(const std::string& source, const Map& variables = {}) {
  try {
    render(source, variables);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kData);
    return error.what();
  }
  return "no error";
}

// Each would take the stack, the memory, or an hour.
TEST(Jinja, HostileTemplatesEndAsOneErrorWithinSeconds) {
  const auto grown = [](const std::string& start, const std::string& next, int rounds,
                        const std::string& use) {
    return "{% set ns = namespace(x=" + start + ", y=" + start + ") %}{% for i in range(" +
           std::to_string(rounds) + ") %}{% set ns.x = " + next + " %}{% set ns.y = " + next +
           " %}{% endfor %}" + use;
  };
  const std::string nested = "a template makes a value of more than 2097152 items or 100 levels";
  const std::pair<std::string, std::string> cases[] = {
      {grown("[]", "[ns.x]", 90000, ""), nested},
      {grown("{}", "{'a': ns.x}", 90000, ""), nested},
      {grown("{}", "{'a': {'b': ns.x}.items}", 90000, ""), nested},
      {grown("[1]", "ns.x + ns.x", 40, ""), nested},
      {grown("[1]", "[ns.x, ns.x]", 40, "{{ ns.x == ns.y }}"), nested},
      {grown("'a'", "ns.x ~ ns.x", 40, ""), "a text of more than 64 MiB"},
      {grown("'a'", "ns.x ~ ns.x", 24, "{{ ns.x | list }}"), "going through a text"},
      {grown("['aaaaaaaa']", "ns.x + ns.x", 19, "{{ [ns.x] | tojson(indent=64) }}"),
       "tojson makes a text of more than"},
      {"{% set ns = namespace() %}{% set ns.a = ns %}", "a namespace inside of another value"},
      {"{% set ns = namespace() %}{% set ns.a = [ns] %}", "a namespace inside of another value"},
      {"{% set ns = namespace() %}{% set ns.a = namespace(b=ns) %}", "a namespace inside of another value"},
      {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"},
  };
  for (const auto& [source, message] : cases)
    EXPECT_NE(error_of(source).find(message), std::string::npos) << source << "\n" << error_of(source);
}

TEST(Jinja, ArithmeticAtTheEndsOfNumbersStaysThere) {
  const std::string ends = "{% set most = 2 ** 62 - 1 + 2 ** 62 %}{% set least = -most - 1 %}";
  const auto value = [&](const std::string& text) { return render(ends + "{{ " + text + " }}", {}); };
  EXPECT_EQ(value("(most - 1) % most"), "9223372036854775806");
  EXPECT_EQ(value("least // 3"), "-3074457345618258603");
  EXPECT_EQ(value("least % 3"), "1");
  EXPECT_EQ(value("7 % -3") + value("-7 % 3") + value("-7 // 3") + value("7 // -3"), "-22-3-3");
  EXPECT_EQ(value("'abc'[1::most]"), "b");
  EXPECT_EQ(value("'abc'[::-most]"), "c");
}

TEST(Jinja, RendersAndRefusesAsTheReferenceDoes) {
  const Json cases = Json::parse(base::read_file(CADRE_CHAT_CASES, ExitCode::kData));
  Map variables = *from_json(cases["variables"]).map();
  size_t refused = 0;
  for (const Json& c : cases["language"]) {
    const std::string source = c["template"];
    if (c.contains("output")) {
      try {
        EXPECT_EQ(render(source, variables), c["output"]) << source;
      } catch (const Error& error) {
        ADD_FAILURE() << source << "\n" << error.what();
      }
    } else {
      EXPECT_NE(error_of(source, variables), "no error") << source;
      ++refused;
    }
  }
  EXPECT_GT(refused, 20u);
}

TEST(Jinja, NamesWhatIsNotSupported) {
  const auto names = [](const std::string& source, const std::string& what) {
    EXPECT_NE(error_of(source).find(what), std::string::npos) << error_of(source);
  };
  names("a\n{% include 'x' %}", "test, line 2: the tag 'include' is not supported");
  names("{{ 'a' | wordwrap }}", "the filter 'wordwrap' is not supported");
  names("{{ 1 is prime }}", "the test 'prime' is not supported");
  names("{{ [1] }}", "a list is written as text");
  names("{{ 'é'.upper() }}", "not ASCII");
  names("{{ 'a'.zfill(3) }}", "'zfill' is called, but it is undefined, or not supported");
  names("{% for i in [] recursive %}{% endfor %}", "recursive loops");
  names("\n\n{{ a.b }}", "test, line 3: 'a' is undefined, so it has no 'b'");
}

TEST(Jinja, AHostileTemplateStops) {
  const auto stops = [](const std::string& source) { EXPECT_NE(error_of(source), "no error"); };
  stops("{% set ns = namespace(t='x') %}{% for i in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}");
  stops("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
  stops("{{ " + std::string(100000, '(') + "1");
  stops("{{ 1" + std::string(100000, '+') + "1 }}");
  std::string sum = "1";
  for (int i = 0; i < 5000; ++i) sum += "+1";
  stops("{{ " + sum + " }}");
  std::string branches = "{% if a %}";
  for (int i = 0; i < 5000; ++i) branches += "{% elif a %}";
  stops(branches + "{% endif %}");
  std::string blocks, ends;
  for (int i = 0; i < 5000; ++i) blocks += "{% if 1 %}", ends += "{% endif %}";
  stops(blocks + ends);
  stops("{{ 9223372036854775807 }}{{ 999999999999999999 * 999 }}");
  stops("{{ range(100001) }}");
}

TEST(Jinja, TheLongestTagIsStillEvaluated) {
  std::string sum = "1";
  for (int i = 1; i < 490; ++i) sum += "+1";
  EXPECT_EQ(render("{{ " + sum + " }}", {}), "490");
}

TEST(Jinja, StrictTemplatesRefuseToWriteWhatIsUndefined) {
  const TemplateOptions strict = {.lexer = {}, .strict_undefined = true};
  EXPECT_THROW(render("{{ nothing }}", {}, strict), Error);
  EXPECT_EQ(render("{{ nothing | default('x') }}{% if nothing is defined %}y{% endif %}", {}, strict), "x");
}

TEST(Jinja, ATemplateThatIsOneOutputHasAValue) {
  const auto value = [](const std::string& source) { return Template(source, {}, "test").value({}); };
  ASSERT_TRUE(value("{{ [1, 'b'] }}").has_value());
  EXPECT_EQ(value("{{ [1, 'b'] }}")->list()->size(), 2u);
  EXPECT_FALSE(value("{{ 1 }} ").has_value());
  EXPECT_FALSE(value("text").has_value());
}

// Where the bytes of `message` stand in a text, through all that may be done to them.
TEST(Jinja, TextRemembersWhereItCameFrom) {
  Map variables;
  variables.set("a", from_json(" Answer: yes \n", 5));
  variables.set("b", from_json("no", 6));
  const auto marks = [&](const std::string& source) {
    std::string out;
    const Text text = Template(source, kOptions, "test").render(variables);
    for (const Mark& mark : text.marks)
      out += std::to_string(mark.source) + "[" + text.bytes.substr(mark.begin, mark.end - mark.begin) + "]";
    return out;
  };
  EXPECT_EQ(marks("x{{ 'q' + a | trim + 'r' }}y{{ b }}"), "5[Answer: yes]6[no]");
  EXPECT_EQ(marks("{{ a.split(':')[1].strip() ~ b ~ a[1:3] }}"), "5[yes]6[no]5[An]");
  EXPECT_EQ(marks("{{ {'k': b, 'n': 1} | tojson }}{{ a | upper }}"),
            "6[{\"k\": \"no\", \"n\": 1}]5[ ANSWER: YES \n]");
  EXPECT_EQ(marks("{{ a.replace('yes', b) | trim }}"), "5[Answer: ]6[no]");
  EXPECT_EQ(marks("{% macro m(t) %}<{{ t }}>{% endmacro %}{% set c %}{{ m(b) }}{% endset %}{{ c }}"),
            "6[no]");
  EXPECT_EQ(marks("{{ b == 'no' }}{{ b | length }}"), "");
  EXPECT_EQ(marks("{% generation %}x{{ b }}{% endgeneration %}"), "-2[xno]");
}

}  // namespace
}  // namespace cadre::data::jinja
