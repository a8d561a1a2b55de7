# Completion in bash for Glia's programs:  source tools/completion.bash
# Nothing is listed here: a program prints its own flags and their choices (--help-completion), so what is offered is what
# the program at hand understands.
_glia() {
  local program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=() line
  [[ $program == */* ]] && program=${program/#\~\//$HOME/}
  COMPREPLY=()
  # bench has flags behind its commands.
  local command=()
  if [[ ${program##*/} == *bench && $COMP_CWORD -gt 1 ]]; then command=("${COMP_WORDS[1]}"); fi
  while IFS= read -r line; do
    local parts=($line)
    if [[ ${parts[0]} == "$before" && ${#parts[@]} -gt 1 && $word != -* ]]; then
      COMPREPLY=($(compgen -W "${parts[*]:1}" -- "$word"))
      return
    fi
    words+=("${parts[0]}")
  done < <("$program" "${command[@]}" --help-completion 2>/dev/null)
  # What is no flag is a file: -o default offers those.
  if [[ $word == -* || ${words[0]:-} != -* ]]; then COMPREPLY=($(compgen -W "${words[*]}" -- "$word")); fi
}
for _glia_program in run_all train pretrain analyse bench classify export fetch_data generate gradcheck heatmap report route router_pages tokenize train_vocab; do
  complete -o default -F _glia "glia-$_glia_program"
  # By its last word a path is found too; export alone is a word of bash itself.
  if [[ $_glia_program == export ]]; then complete -o default -F _glia ./tools/export tools/export
  else complete -o default -F _glia "$_glia_program"; fi
done
unset _glia_program
