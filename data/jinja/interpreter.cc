#include "data/jinja/interpreter.h"

#include <algorithm>
#include <utility>

#include "data/jinja/library.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

using Kind = Statement::Kind;

constexpr int64_t kMaxSteps = 1'000'000;  // a hostile template stops within seconds
constexpr int kMaxMacroDepth = 20;

// What `loop` stands for in round i.
Map loop_variable(const List& items, size_t i) {
  const auto at = static_cast<int64_t>(i), size = static_cast<int64_t>(items.size());
  Map loop;
  loop.entries = {{"index", at + 1},
                  {"index0", at},
                  {"revindex", size - at},
                  {"revindex0", size - at - 1},
                  {"first", at == 0},
                  {"last", at + 1 == size},
                  {"length", size},
                  {"previtem", i > 0 ? items[i - 1] : Value(Undefined{"previtem"})},
                  {"nextitem", i + 1 < items.size() ? items[i + 1] : Value(Undefined{"nextitem"})},
                  {"cycle", Function([at](const Arguments& arguments) {
                     require(!arguments.positional.empty(), ExitCode::kData, "cycle of nothing");
                     return arguments.positional[static_cast<size_t>(at) % arguments.positional.size()];
                   })}};
  return loop;
}

}  // namespace

void Interpreter::Scope::set(const std::string& name, Value value) {
  const auto found = std::ranges::find_if(names, [&](const auto& entry) { return entry.first == name; });
  if (found != names.end()) {
    found->second = std::move(value);
  } else {
    names.emplace_back(name, std::move(value));
  }
}

Text Interpreter::run(const Block& block) {
  return capture(block);
}

Text Interpreter::capture(const Block& block) {
  Text text;
  Text* const before = std::exchange(out_, &text);
  execute(block);
  out_ = before;
  return text;
}

void Interpreter::count_step(int line) {
  line_ = line;
  require(++steps_ <= kMaxSteps, ExitCode::kData, "the template takes more than {} steps", kMaxSteps);
}

Interpreter::Flow Interpreter::execute(const Block& block) {
  for (const Statement& statement : block) {
    if (const Flow flow = execute(statement); flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const Statement& statement) {
  count_step(statement.line);
  switch (statement.kind) {
    case Kind::kText:
      out_->append(statement.text);
      break;
    case Kind::kOutput: {
      const Value value = evaluate(*statement.value);
      require(!strict_ || !value.is_undefined(), ExitCode::kData, "'{}' is undefined", value.name());
      out_->append(value.str());
      break;
    }
    case Kind::kIf:
      return execute(evaluate(*statement.value).truth() ? statement.body : statement.otherwise);
    case Kind::kFor:
      return loop(statement);
    case Kind::kSet:
      assign(statement);
      break;
    case Kind::kCapture:
      scope_->set(statement.names[0], capture(statement.body));
      break;
    case Kind::kMacro:
      define_macro(statement);
      break;
    case Kind::kGeneration: {
      Text text = capture(statement.body);
      text.mark_all(kGenerationSource);
      out_->append(text);
      break;
    }
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::loop(const Statement& statement) {
  List items = items_of(evaluate(*statement.value));
  Scope* const outer = scope_;
  if (statement.condition) {
    std::erase_if(items, [&](const Value& item) {
      count_step(statement.line);
      Scope round{outer};
      scope_ = &round;
      bind(statement.names, item);
      const bool keep = evaluate(*statement.condition).truth();
      scope_ = outer;
      return !keep;
    });
  }
  for (size_t i = 0; i < items.size(); ++i) {
    count_step(statement.line);
    Scope round{outer};
    scope_ = &round;
    round.set("loop", loop_variable(items, i));
    bind(statement.names, items[i]);
    const Flow flow = execute(statement.body);
    scope_ = outer;
    if (flow == Flow::kBreak) break;
  }
  return items.empty() ? execute(statement.otherwise) : Flow::kNext;
}

void Interpreter::bind(const std::vector<std::string>& names, const Value& value) {
  if (names.size() == 1) {
    scope_->set(names[0], value);
    return;
  }
  const List parts = items_of(value);
  require(parts.size() == names.size(), ExitCode::kData, "{} values for {} names", parts.size(),
          names.size());
  for (size_t i = 0; i < names.size(); ++i) scope_->set(names[i], parts[i]);
}

void Interpreter::assign(const Statement& statement) {
  const Value value = evaluate(*statement.value);
  if (statement.attribute.empty()) {
    bind(statement.names, value);
    return;
  }
  const Value target = look_up(statement.names[0]);
  require(target.map() && target.map()->is_namespace, ExitCode::kData,
          "'{}' is no namespace, so its attributes cannot be set", statement.names[0]);
  require(!value.map() || !value.map()->is_namespace, ExitCode::kData, "a namespace inside of another value");
  target.map()->set(statement.attribute, value);
}

void Interpreter::define_macro(const Statement& statement) {
  scope_->set(statement.name, Function([this, &statement](const Arguments& arguments) -> Value {
                return call_macro(statement, arguments);
              }));
}

Text Interpreter::call_macro(const Statement& macro, const Arguments& arguments) {
  require(macro_depth_ < kMaxMacroDepth, ExitCode::kData, "the macro '{}' calls itself too deeply",
          macro.name);
  require(arguments.positional.size() <= macro.names.size(), ExitCode::kData,
          "the macro '{}' got {} arguments, expected {}", macro.name, arguments.positional.size(),
          macro.names.size());
  for (const auto& [name, _] : arguments.named) {
    require(std::ranges::find(macro.names, name) != macro.names.end(), ExitCode::kData,
            "the macro '{}' has no argument '{}'", macro.name, name);
  }
  Scope own{&root_};
  Scope* const caller = std::exchange(scope_, &own);
  ++macro_depth_;
  const size_t required = macro.names.size() - macro.defaults.size();
  for (size_t i = 0; i < macro.names.size(); ++i) {
    const Value* const given = arguments.find(i, macro.names[i]);
    own.set(macro.names[i], given           ? *given
                            : i >= required ? evaluate(*macro.defaults[i - required])
                                            : Value(Undefined{macro.names[i]}));
  }
  Text text = capture(macro.body);
  --macro_depth_;
  scope_ = caller;
  return text;
}

}  // namespace cadre::data::jinja
