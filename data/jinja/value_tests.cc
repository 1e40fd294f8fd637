// Tests: `value is name(arguments)`.
#include <algorithm>
#include <array>

#include "data/jinja/library.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

const Value& other(const Arguments& arguments) {
  require(arguments.positional.size() == 1, ExitCode::kData, "a test got {} arguments, expected one",
          arguments.positional.size());
  return arguments.positional[0];
}

int64_t remainder(const Value& value, int64_t by) {
  require(by != 0, ExitCode::kData, "a test divides by 0");
  return value.integer() % by;
}

bool is_sequence(const Value& value) {
  return value.text() || value.list() || (value.map() && !value.map()->is_namespace) || value.is_undefined();
}

struct Test {
  const char* name;
  bool (*holds)(const Value&, const Arguments&);
};
const std::array<Test, 34> kTests = {{
    {"defined", [](const Value& v, const Arguments&) { return !v.is_undefined(); }},
    {"undefined", [](const Value& v, const Arguments&) { return v.is_undefined(); }},
    {"none", [](const Value& v, const Arguments&) { return v.is_none(); }},
    {"string", [](const Value& v, const Arguments&) { return v.is_text(); }},
    {"mapping", [](const Value& v, const Arguments&) { return v.map() && !v.map()->is_namespace; }},
    {"iterable", [](const Value& v, const Arguments&) { return is_sequence(v); }},
    {"sequence", [](const Value& v, const Arguments&) { return is_sequence(v); }},
    {"number", [](const Value& v, const Arguments&) { return v.is_number(); }},
    {"integer", [](const Value& v, const Arguments&) { return v.is_int(); }},
    {"float", [](const Value& v, const Arguments&) { return v.is_float(); }},
    {"boolean", [](const Value& v, const Arguments&) { return v.is_bool(); }},
    {"true", [](const Value& v, const Arguments&) { return v.is_bool() && v.truth(); }},
    {"false", [](const Value& v, const Arguments&) { return v.is_bool() && !v.truth(); }},
    {"callable", [](const Value& v, const Arguments&) { return v.is_function(); }},
    {"odd", [](const Value& v, const Arguments&) { return remainder(v, 2) != 0; }},
    {"even", [](const Value& v, const Arguments&) { return remainder(v, 2) == 0; }},
    {"divisibleby", [](const Value& v, const Arguments& a) { return remainder(v, other(a).integer()) == 0; }},
    {"in", [](const Value& v, const Arguments& a) { return contains(other(a), v); }},
    {"equalto", [](const Value& v, const Arguments& a) { return equal(v, other(a)); }},
    {"eq", [](const Value& v, const Arguments& a) { return equal(v, other(a)); }},
    {"==", [](const Value& v, const Arguments& a) { return equal(v, other(a)); }},
    {"sameas",
     [](const Value& v, const Arguments& a) {
       require(!v.text() && !v.list() && !v.map(), ExitCode::kData,
               "the test 'sameas' of a {} is not supported", v.type());
       return std::string_view(v.type()) == other(a).type() && equal(v, other(a));
     }},
    {"ne", [](const Value& v, const Arguments& a) { return !equal(v, other(a)); }},
    {"!=", [](const Value& v, const Arguments& a) { return !equal(v, other(a)); }},
    {"lt", [](const Value& v, const Arguments& a) { return compare(v, other(a)) < 0; }},
    {"lessthan", [](const Value& v, const Arguments& a) { return compare(v, other(a)) < 0; }},
    {"<", [](const Value& v, const Arguments& a) { return compare(v, other(a)) < 0; }},
    {"le", [](const Value& v, const Arguments& a) { return compare(v, other(a)) <= 0; }},
    {"<=", [](const Value& v, const Arguments& a) { return compare(v, other(a)) <= 0; }},
    {"gt", [](const Value& v, const Arguments& a) { return compare(v, other(a)) > 0; }},
    {"greaterthan", [](const Value& v, const Arguments& a) { return compare(v, other(a)) > 0; }},
    {">", [](const Value& v, const Arguments& a) { return compare(v, other(a)) > 0; }},
    {"ge", [](const Value& v, const Arguments& a) { return compare(v, other(a)) >= 0; }},
    {">=", [](const Value& v, const Arguments& a) { return compare(v, other(a)) >= 0; }},
}};

}  // namespace

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments) {
  const auto found = std::ranges::find(kTests, name, &Test::name);
  require(found != kTests.end(), ExitCode::kData, "the test '{}' is not supported", name);
  return found->holds(value, arguments);
}

}  // namespace cadre::data::jinja
