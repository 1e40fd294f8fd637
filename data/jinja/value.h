// Values of the template language, with Python's meaning: what templates compute with. Text remembers which of
// its bytes came from where, so that one can say afterwards which part of a rendered conversation was whose.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace cadre::data::jinja {

using Json = nlohmann::ordered_json;  // Python's dictionaries keep their order

// Bytes [begin, end) came from `source`, a number that the caller chose.
struct Mark {
  size_t begin, end;
  int32_t source;
};

constexpr int32_t kNoSource = -1;
constexpr int32_t kGenerationSource = -2;  // of what stands in a {% generation %} block

struct Text {
  std::string bytes;
  std::vector<Mark> marks;  // in order, apart from each other

  Text() = default;
  Text(std::string text) : bytes(std::move(text)) {}
  Text(const char* text) : bytes(text) {}
  void append(const Text& other);
  Text slice(size_t begin, size_t end) const;
  void mark_all(int32_t source);
};

class Value;
using List = std::vector<Value>;

struct Map {
  std::vector<std::pair<std::string, Value>> entries;  // in order of insertion
  bool is_namespace = false;                           // its entries can be set
  const Value* find(std::string_view key) const;
  void set(const std::string& key, Value value);
};

struct Arguments;
using Function = std::function<Value(const Arguments&)>;

// What a name stands for that nothing was given to.
struct Undefined {
  std::string name;
};
struct None {};

class Value {
 public:
  Value() = default;  // undefined
  Value(Undefined undefined) : held_(std::move(undefined)) {}
  Value(None none) : held_(none) {}
  Value(bool flag) : held_(flag) {}
  Value(int64_t number) : held_(number) {}
  Value(double number) : held_(number) {}
  Value(Text text);
  Value(std::string text) : Value(Text(std::move(text))) {}
  Value(const char* text) : Value(Text(text)) {}
  // Throw Error(kData) for what is nested deeper than kMaxValueDepth or weighs more than kMaxValueWeight, and for a
  // namespace inside, which could hold itself.
  Value(List list);
  Value(Map map);
  Value(Function function) : held_(std::make_shared<const Function>(std::move(function))) {}
  Value(Function function, const Value& bound);  // that keeps a value, such as a method

  bool is_undefined() const { return holds<Undefined>(); }
  bool is_none() const { return holds<None>(); }
  bool is_bool() const { return holds<bool>(); }
  bool is_int() const { return holds<int64_t>(); }
  bool is_float() const { return holds<double>(); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_text() const { return holds<Text>(); }
  bool is_function() const { return holds<std::shared_ptr<const Function>>(); }

  const Text* text() const { return std::get_if<Text>(&held_); }
  const List* list() const;
  Map* map() const;
  const Function* function() const;
  int64_t integer() const;   // of an int or a bool
  double real() const;       // of any number
  std::string name() const;  // of an undefined one

  // Of a list or a dict, with all that is in it and as often as it is: so that going through a value ends, and
  // soon. Items and 64 bytes of text weigh 1.
  size_t weight() const { return weight_; }

  bool truth() const;
  const char* type() const;  // for messages, in Python's words
  // As Python's str(). Throws Error(kData) for lists, maps and functions: their form in Python is no text for
  // a model, and tojson says what is meant.
  Text str() const;

 private:
  template <class T>
  bool holds() const {
    return std::holds_alternative<T>(held_);
  }
  std::variant<Undefined, None, bool, int64_t, double, Text, std::shared_ptr<const List>,
               std::shared_ptr<Map>, std::shared_ptr<const Function>>
      held_;
  void hold(const Value& item);

  size_t weight_ = 1;
  int depth_ = 0;
};

// What a function, a filter or a test was called with.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  // The argument at `position` or of that name; nothing when it was not given.
  const Value* find(size_t position, std::string_view name) const;
  // Throws Error(kData) for more positional ones than names, and for other names.
  void expect(std::string_view who, std::initializer_list<const char*> names) const;
};

bool equal(const Value& a, const Value& b);
// Below 0, 0, above 0. Throws Error(kData) where Python has no order.
int compare(const Value& a, const Value& b);
// `item in container`.
bool contains(const Value& container, const Value& item);
// What `for` goes through: items, keys of a map, characters. Throws Error(kData) for anything else.
List items_of(const Value& value);
// Python's len(). Throws Error(kData).
int64_t length_of(const Value& value);

// From JSON. Strings get marks of `source` unless it is kNoSource. Throws Error(kData) for what is nested too
// deeply.
Value from_json(const Json& json, int32_t source = kNoSource, int depth = 0);
// As Python's json.dumps(value, ensure_ascii=False, indent=indent): a negative indent writes one line. A text
// that came from somewhere marks the whole.
Text to_json(const Value& value, int indent);
// As Python's repr() of a float: the shortest digits that read back the same.
std::string float_text(double number);

// Bytes where each character starts, and the size; ill-formed bytes are characters of their own.
std::vector<size_t> character_starts(std::string_view text);

constexpr size_t kMaxTextBytes = size_t(1) << 26;    // a template that doubles a text stops here
constexpr size_t kMaxValueWeight = size_t(1) << 21;  // and one that doubles a list here
constexpr int kMaxValueDepth = 100;                  // comparing, writing and freeing a value call themselves

}  // namespace cadre::data::jinja
