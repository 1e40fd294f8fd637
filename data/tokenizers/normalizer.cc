#include "data/tokenizers/normalizer.h"

#include <utility>

#include "data/tokenizers/unicode.h"
#include "parallel/base/errors.h"

namespace cadre::data {

void replace_all(std::string_view text, std::string_view from, std::string_view to, std::string& out) {
  size_t at = 0;
  for (size_t found; (found = text.find(from, at)) != std::string_view::npos; at = found + from.size()) {
    out.append(text, at, found - at);
    out += to;
  }
  out.append(text, at);
}

Normalizer::Normalizer(const JsonFields& file) {
  if (file.has("normalizer")) add(file.object("normalizer"));
}

void Normalizer::add(const JsonFields& step) {
  const std::string type = step.text("type");
  if (type == "Sequence") {
    for (const Json& part : step.list("normalizers")) add({part, step.where()});
  } else if (type == "NFC") {
    steps_.push_back({Kind::kNfc, "", ""});
  } else if (type == "Prepend") {
    steps_.push_back({Kind::kPrepend, "", step.text("prepend")});
  } else if (type == "Replace") {
    const std::string from = step.object("pattern").text("String");
    if (from.empty()) step.refuse("pattern", "a string that is not empty");
    steps_.push_back({Kind::kReplace, from, step.text("content")});
  } else {
    step.refuse("type", "one of NFC, Prepend, Replace, Sequence: other normalisers are not supported");
  }
}

std::string_view Normalizer::apply(std::string_view text, std::string& one, std::string& two) const {
  std::string *next = &one, *spare = &two;
  for (const Step& step : steps_) {
    bool changed = true;
    switch (step.kind) {
      case Kind::kNfc:
        changed = normalize_nfc(text, *next);
        break;
      case Kind::kPrepend:
        changed = !text.empty();
        if (changed) next->assign(step.to).append(text);
        break;
      case Kind::kReplace:
        changed = text.find(step.from) != std::string_view::npos;
        if (changed) {
          next->clear();
          replace_all(text, step.from, step.to, *next);
        }
        break;
    }
    if (changed) {
      text = *next;
      std::swap(next, spare);
    }
  }
  return text;
}

std::string Normalizer::blank_mark() const {
  for (const Step& step : steps_) {
    if (step.kind == Kind::kReplace && step.from == " ") return step.to;
  }
  return "";
}

}  // namespace cadre::data
