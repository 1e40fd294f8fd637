#include "data/rewards/schema.h"

#include <cmath>
#include <functional>
#include <map>
#include <vector>

#include "data/rewards/bounded_regex.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

using nlohmann::json;
// Says what is wrong with the value at `path`, or nothing.
using Check = std::function<std::string(const json& value, const std::string& path)>;

std::string say(const std::string& path, const std::string& what) {
  return fmt::format("{}: {}", path.empty() ? "the value" : path, what);
}

std::string member(const std::string& path, const std::string& name) {
  return path.empty() ? name : fmt::format("{}.{}", path, name);
}

bool has_type(const json& value, const std::string& type) {
  if (type == "integer")
    return value.is_number_integer() ||
           (value.is_number() && std::floor(value.get<double>()) == value.get<double>());
  if (type == "number") return value.is_number();
  return type == value.type_name();
}

int64_t characters(const std::string& text) {
  int64_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

}  // namespace

struct Schema::Node {
  std::string where;
  std::vector<Check> checks;

  std::string first_misfit(const json& value, const std::string& path) const {
    for (const Check& check : checks) {
      if (std::string wrong = check(value, path); !wrong.empty()) return wrong;
    }
    return {};
  }

  Node(const json& schema, const std::string& place) : where(place) {
    if (schema.is_boolean()) {
      if (!schema.get<bool>())
        checks.push_back(
            [](const json&, const std::string& path) { return say(path, "nothing is allowed here"); });
      return;
    }
    expect(schema.is_object(), "expected an object, true or false");
    for (const auto& [key, value] : schema.items()) {
      if (key == "title" || key == "description" || key == "$schema" || key == "$comment") continue;
      if (!add_value_rule(key, value) && !add_number_rule(key, value) && !add_size_rule(key, value) &&
          !add_object_rule(key, value, schema) && !add_combination(key, value))
        expect(false, fmt::format("the keyword '{}' is not supported", key));
    }
  }

 private:
  using Child = std::shared_ptr<const Node>;
  void expect(bool condition, const std::string& what) const {
    require(condition, ExitCode::kUsage, "{}: {}", where, what);
  }
  Child child(const json& schema, const std::string& step) const {
    return std::make_shared<const Node>(schema, member(where, step));
  }

  bool add_value_rule(const std::string& key, const json& value) {
    if (key == "type") {
      const json types = value.is_array() ? value : json::array({value});
      for (const json& t : types) {
        const bool known = t == "null" || t == "boolean" || t == "object" || t == "array" || t == "number" ||
                           t == "string" || t == "integer";
        expect(known,
               fmt::format("type: found {}, expected null, boolean, object, array, number, string or integer",
                           t.dump()));
      }
      checks.push_back([types](const json& v, const std::string& path) {
        for (const json& t : types) {
          if (has_type(v, t.get<std::string>())) return std::string();
        }
        return say(path, fmt::format("found {}, expected {}", v.type_name(), types.dump()));
      });
      return true;
    }
    if (key != "const" && key != "enum") return false;
    expect(key == "const" || value.is_array(), "enum: expected an array");
    const json allowed = key == "const" ? json::array({value}) : value;
    checks.push_back([allowed](const json& v, const std::string& path) {
      for (const json& a : allowed) {
        if (a == v) return std::string();
      }
      return say(path, fmt::format("expected one of {}", allowed.dump()));
    });
    return true;
  }

  bool add_number_rule(const std::string& key, const json& value) {
    using Rule = bool (*)(double, double);
    static const std::map<std::string, Rule> rules = {
        {"minimum", [](double v, double b) { return v >= b; }},
        {"maximum", [](double v, double b) { return v <= b; }},
        {"exclusiveMinimum", [](double v, double b) { return v > b; }},
        {"exclusiveMaximum", [](double v, double b) { return v < b; }},
        {"multipleOf", [](double v, double b) { return std::floor(v / b) == v / b; }}};
    const auto rule = rules.find(key);
    if (rule == rules.end()) return false;
    expect(value.is_number() && (key != "multipleOf" || value.get<double>() > 0),
           key + ": expected a number");
    const double bound = value.get<double>();
    checks.push_back([key, bound, fits = rule->second](const json& v, const std::string& path) {
      if (!v.is_number() || fits(v.get<double>(), bound)) return std::string();
      return say(path, fmt::format("found {}, expected {} {}", v.get<double>(), key, bound));
    });
    return true;
  }

  bool add_size_rule(const std::string& key, const json& value) {
    if (key == "pattern") {
      expect(value.is_string(), "pattern: expected a string");
      const auto regex =
          std::make_shared<const BoundedRegex>(value.get<std::string>(), false, 100'000, where + ".pattern");
      checks.push_back([regex](const json& v, const std::string& path) {
        if (!v.is_string() || regex->match(v.get_ref<const std::string&>()) == Match::kYes)
          return std::string();
        return say(path, "the pattern does not match");
      });
      return true;
    }
    if (key == "uniqueItems") {
      expect(value.is_boolean(), "uniqueItems: expected true or false");
      if (!value.get<bool>()) return true;
      checks.push_back([](const json& v, const std::string& path) {
        for (size_t i = 0; v.is_array() && i < v.size(); ++i) {
          for (size_t j = 0; j < i; ++j) {
            if (v[i] == v[j]) return say(path, fmt::format("items {} and {} are equal", j, i));
          }
        }
        return std::string();
      });
      return true;
    }
    static const std::map<std::string, json::value_t> kinds = {{"Items", json::value_t::array},
                                                               {"Properties", json::value_t::object},
                                                               {"Length", json::value_t::string}};
    if (key.rfind("min", 0) != 0 && key.rfind("max", 0) != 0) return false;
    const auto kind = kinds.find(key.substr(3));
    if (kind == kinds.end()) return false;
    expect(value.is_number_unsigned(), key + ": expected a whole number");
    const int64_t bound = value.get<int64_t>();
    const bool least = key[1] == 'i';
    checks.push_back([bound, least, type = kind->second](const json& v, const std::string& path) {
      if (v.type() != type) return std::string();
      const int64_t n = v.is_string() ? characters(v.get_ref<const std::string&>()) : int64_t(v.size());
      if (least ? n >= bound : n <= bound) return std::string();
      return say(path,
                 fmt::format("found {} of them, expected at {} {}", n, least ? "least" : "most", bound));
    });
    return true;
  }

  bool add_object_rule(const std::string& key, const json& value, const json& schema) {
    if (key == "items") {
      checks.push_back([item = child(value, key)](const json& v, const std::string& path) {
        for (size_t i = 0; v.is_array() && i < v.size(); ++i) {
          if (auto wrong = item->first_misfit(v[i], fmt::format("{}[{}]", path, i)); !wrong.empty())
            return wrong;
        }
        return std::string();
      });
    } else if (key == "required") {
      expect(value.is_array(), "required: expected an array of names");
      for (const json& name : value) expect(name.is_string(), "required: expected an array of names");
      checks.push_back([value](const json& v, const std::string& path) {
        for (const json& name : value) {
          if (v.is_object() && !v.contains(name.get<std::string>()))
            return say(path, fmt::format("'{}' is missing", name.get<std::string>()));
        }
        return std::string();
      });
    } else if (key == "properties") {
      expect(value.is_object(), "properties: expected an object");
      for (const auto& [name, property] : value.items()) {
        checks.push_back(
            [name = name, property = child(property, name)](const json& v, const std::string& path) {
              if (!v.is_object() || !v.contains(name)) return std::string();
              return property->first_misfit(v[name], member(path, name));
            });
      }
    } else if (key == "additionalProperties") {
      const json known = schema.value("properties", json::object());
      checks.push_back([known, other = child(value, key)](const json& v, const std::string& path) {
        if (!v.is_object()) return std::string();
        for (const auto& [name, property] : v.items()) {
          if (known.contains(name)) continue;
          if (auto wrong = other->first_misfit(property, member(path, name)); !wrong.empty()) return wrong;
        }
        return std::string();
      });
    } else {
      return false;
    }
    return true;
  }

  bool add_combination(const std::string& key, const json& value) {
    if (key != "allOf" && key != "anyOf" && key != "oneOf" && key != "not") return false;
    std::vector<Child> children;
    if (key == "not") {
      children.push_back(child(value, key));
    } else {
      expect(value.is_array() && !value.empty(), key + ": expected an array of schemas");
      for (size_t i = 0; i < value.size(); ++i)
        children.push_back(child(value[i], fmt::format("{}[{}]", key, i)));
    }
    const size_t all = children.size();
    const size_t least = key == "allOf" ? all
                         : key == "not" ? 0
                                        : 1,
                 most = key == "not"     ? 0
                        : key == "oneOf" ? 1
                                         : all;
    checks.push_back([key, children, least, most](const json& v, const std::string& path) {
      size_t fits = 0;
      for (const Child& c : children) fits += c->first_misfit(v, path).empty();
      if (fits >= least && fits <= most) return std::string();
      return say(path, fmt::format("fits {} of the schemas of '{}'", fits, key));
    });
    return true;
  }
};

Schema::Schema(const json& schema, const std::string& where) : root_(std::make_unique<Node>(schema, where)) {}
Schema::~Schema() = default;
std::string Schema::misfit(const json& value) const {
  return root_->first_misfit(value, "");
}

}  // namespace cadre::data
