// The interpreter's expressions.
#include <cmath>

#include "data/jinja/interpreter.h"
#include "data/jinja/library.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

using Kind = Expression::Kind;

Value make_namespace(const Arguments& arguments, bool writable) {
  Map map;
  if (!arguments.positional.empty()) {
    require(arguments.positional.size() == 1 && arguments.positional[0].map(), ExitCode::kData,
            "namespace and dict take a dict and named arguments");
    map.entries = arguments.positional[0].map()->entries;
  }
  for (const auto& [name, value] : arguments.named) map.set(name, value);
  map.is_namespace = writable;
  return map;
}

Value make_range(const Arguments& arguments) {
  arguments.expect("range", {"start", "stop", "step"});
  const size_t given = arguments.positional.size();
  require(given > 0, ExitCode::kData, "range expects a number");
  const int64_t begin = given > 1 ? arguments.positional[0].integer() : 0;
  const int64_t end = arguments.positional[given > 1 ? 1 : 0].integer();
  const int64_t step = given > 2 ? arguments.positional[2].integer() : 1;
  constexpr size_t kMaxRange = 100'000;  // as in Jinja2's sandbox
  require(step != 0, ExitCode::kData, "a range with the step 0");
  List numbers;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    require(numbers.size() < kMaxRange, ExitCode::kData, "a range of more than {} numbers", kMaxRange);
    numbers.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return numbers;
}

Value integer_arithmetic(const std::string& name, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (name == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (name == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (name == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (name == "**") {
    require(b >= 0 && b <= 64, ExitCode::kData, "the power {} is not supported", b);
    result = 1;
    for (int64_t i = 0; i < b && !overflow; ++i) overflow = __builtin_mul_overflow(result, a, &result);
  } else {
    require(b != 0, ExitCode::kData, "a division by 0");
    if (b == -1) return integer_arithmetic("*", name == "%" ? 0 : a, -1);
    const bool down = a % b != 0 && (a < 0) != (b < 0);  // Python rounds down
    result = name == "%" ? a % b + (down ? b : 0) : a / b - (down ? 1 : 0);
  }
  require(!overflow, ExitCode::kData, "{} {} {} is too large a number", a, name, b);
  return result;
}

Value arithmetic(const std::string& name, const Value& a, const Value& b) {
  if (!a.is_float() && !b.is_float() && name != "/")
    return integer_arithmetic(name, a.integer(), b.integer());
  const double x = a.real(), y = b.real();
  if (name == "+") return x + y;
  if (name == "-") return x - y;
  if (name == "*") return x * y;
  if (name == "**") return std::pow(x, y);
  require(y != 0, ExitCode::kData, "a division by 0");
  if (name == "/") return x / y;
  const double down = std::floor(x / y);
  return name == "%" ? x - down * y : down;
}

Value repeat(const Text& text, int64_t count) {
  Text out;
  for (int64_t i = 0; i < count && !text.bytes.empty(); ++i) out.append(text);
  return out;
}

Value combine(const std::string& name, const Value& a, const Value& b) {
  if (name == "~") {
    Text text = a.str();
    text.append(b.str());
    return text;
  }
  for (const Value* const v : {&a, &b})
    require(!v->is_undefined(), ExitCode::kData, "'{}' is undefined", v->name());
  if (a.is_number() && b.is_number()) return arithmetic(name, a, b);
  if (name == "+" && a.text() && b.text()) return combine("~", a, b);
  if (name == "+" && a.list() && b.list()) {
    List both = *a.list();
    both.insert(both.end(), b.list()->begin(), b.list()->end());
    return both;
  }
  if (name == "*" && a.text() && b.is_int()) return repeat(*a.text(), b.integer());
  fail(ExitCode::kData, "{} {} {} is not supported", a.type(), name, b.type());
}

}  // namespace

Value Interpreter::look_up(const std::string& name) const {
  for (const Scope* scope = scope_; scope; scope = scope->outer) {
    for (const auto& [known, value] : scope->names)
      if (known == name) return value;
  }
  if (const Value* const found = variables_.find(name)) return *found;
  if (name == "namespace") return Function([](const Arguments& a) { return make_namespace(a, true); });
  if (name == "dict") return Function([](const Arguments& a) { return make_namespace(a, false); });
  if (name == "range") return Function(make_range);
  return Undefined{name};
}

// A large value takes as many steps as it takes time.
Value Interpreter::evaluate(const Expression& e) {
  count_step(e.line);
  Value value = evaluate_kind(e);
  constexpr size_t kWeightOfStep = 64;
  steps_ += static_cast<int64_t>(value.weight() / kWeightOfStep);
  return value;
}

Value Interpreter::evaluate_kind(const Expression& e) {
  switch (e.kind) {
    case Kind::kLiteral:
      return e.literal;
    case Kind::kName:
      return look_up(e.name);
    case Kind::kList: {
      List list;
      for (const auto& part : e.parts) list.push_back(evaluate(*part));
      return list;
    }
    case Kind::kMap: {
      Map map;
      for (size_t i = 0; i < e.parts.size(); i += 2) {
        const Value key = evaluate(*e.parts[i]);
        require(key.text() != nullptr, ExitCode::kData, "a dict's key is a {}, expected a text", key.type());
        map.set(key.text()->bytes, evaluate(*e.parts[i + 1]));
      }
      return map;
    }
    case Kind::kAttribute:
      return attribute_of(evaluate(*e.parts[0]), e.name);
    case Kind::kItem: {
      const Value target = evaluate(*e.parts[0]);
      return item_of(target, evaluate(*e.parts[1]));
    }
    case Kind::kSlice: {
      const Value target = evaluate(*e.parts[0]);
      const Value begin = optional_part(e, 1), end = optional_part(e, 2);
      return slice(target, begin, end, optional_part(e, 3));
    }
    case Kind::kCall:
      return call(e);
    case Kind::kFilter: {
      const Value value = evaluate(*e.parts[0]);
      return apply_filter(e.name, value, arguments_of(e));
    }
    case Kind::kTest: {
      const Value value = evaluate(*e.parts[0]);
      return apply_test(e.name, value, arguments_of(e));
    }
    case Kind::kUnary:
      return unary(e);
    case Kind::kBinary:
      return binary(e);
    case Kind::kCompare:
      return comparison(e);
    case Kind::kConditional:
      if (evaluate(*e.parts[1]).truth()) return evaluate(*e.parts[0]);
      return e.parts[2] ? evaluate(*e.parts[2]) : Value(Undefined{"the else of a condition"});
  }
  return {};
}

Value Interpreter::optional_part(const Expression& e, size_t i) {
  return e.parts[i] ? evaluate(*e.parts[i]) : Value();
}

Value Interpreter::unary(const Expression& e) {
  const Value value = evaluate(*e.parts[0]);
  if (e.name == "not") return !value.truth();
  require(value.is_number(), ExitCode::kData, "{} of a {}", e.name, value.type());
  return e.name == "+" ? value : arithmetic("*", value, int64_t(-1));
}

Value Interpreter::binary(const Expression& e) {
  const Value left = evaluate(*e.parts[0]);
  if (e.name == "and") return left.truth() ? evaluate(*e.parts[1]) : left;
  if (e.name == "or") return left.truth() ? left : evaluate(*e.parts[1]);
  return combine(e.name, left, evaluate(*e.parts[1]));
}

Value Interpreter::comparison(const Expression& e) {
  Value left = evaluate(*e.parts[0]);
  for (size_t i = 0; i < e.operators.size(); ++i) {
    Value right = evaluate(*e.parts[i + 1]);
    const std::string& name = e.operators[i];
    bool holds = false;
    if (name == "==" || name == "!=") {
      holds = equal(left, right) == (name == "==");
    } else if (name == "in" || name == "not in") {
      holds = contains(right, left) == (name == "in");
    } else {
      const int order = compare(left, right);
      holds = name == "<" ? order < 0 : name == "<=" ? order <= 0 : name == ">" ? order > 0 : order >= 0;
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::call(const Expression& e) {
  const Value target = evaluate(*e.parts[0]);
  require(target.function() != nullptr, ExitCode::kData, "'{}' is called, but it is {}", e.parts[0]->name,
          target.is_undefined() ? "undefined, or not supported" : target.type());
  return (*target.function())(arguments_of(e));
}

Arguments Interpreter::arguments_of(const Expression& e) {
  Arguments arguments;
  for (size_t i = 1; i < e.parts.size(); ++i) arguments.positional.push_back(evaluate(*e.parts[i]));
  for (const auto& [name, value] : e.named) arguments.named.emplace_back(name, evaluate(*value));
  return arguments;
}

}  // namespace cadre::data::jinja
