# shellcheck shell=bash
work() { count_up DELETE "$PWD" "$OTHER"; }
